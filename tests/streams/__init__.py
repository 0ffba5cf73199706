"""Server-sent events, long-poll and posted commands, as clients see them."""
