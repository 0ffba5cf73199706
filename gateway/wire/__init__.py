"""Bytes and messages on one socket: the listener, the fast and the slow lane, the outbox."""
