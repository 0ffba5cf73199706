"""One connection's life above the wire: admission, commands, the end."""
