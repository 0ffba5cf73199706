"""The test kit: a real gateway in memory, on a virtual clock, with faults to inject (docs/testing.md).

``plugin`` has the pytest fixtures, ``node`` what they give and, for other tests, ``run_node``. A node has
``link`` and ``broker`` to break, and ``raw`` and ``http`` to talk to it beside ``gateway.client``.
"""
