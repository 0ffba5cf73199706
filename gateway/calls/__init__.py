"""Commands from clients to the backend: Python handlers, and backends over HTTP."""
