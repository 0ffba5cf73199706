"""REST beside the WebSocket: one module per resource, errors as problem documents."""
