"""The log behind the rooms: it gives every event its place, and keeps the last ones."""
