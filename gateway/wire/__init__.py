"""Bytes and messages on one socket: the listener, the lanes, the outbox."""
