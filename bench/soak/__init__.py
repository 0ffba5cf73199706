"""Two nodes for half an hour under everything that happens to them: ``python -m bench soak``.

``plan`` says how much of it, ``fleet`` starts, kills and replaces the nodes, ``listener`` is one client with
its books, ``publishers`` publishes in all three orders, ``disturbances`` cuts, ends and kills, ``samples``
measures and judges, ``run`` puts them together. ``probe`` runs inside the nodes.
"""
