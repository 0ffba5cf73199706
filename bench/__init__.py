"""Benchmarks: one question per script, peers beside ours in one run."""
