"""Ways in: each gives a session its transport."""
