"""Processes that share one port: the supervisor and its workers."""
