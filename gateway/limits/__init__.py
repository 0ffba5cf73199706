"""Limits on what peers may ask of the node: rates, suspicion, and load shedding."""
