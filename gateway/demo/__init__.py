"""A gateway with a living workload, to look at its pages: ``python -m gateway.demo``, or ``make demo``."""
