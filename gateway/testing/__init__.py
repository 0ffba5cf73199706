"""The test kit: a gateway in memory, on a virtual clock, with faults to inject."""
