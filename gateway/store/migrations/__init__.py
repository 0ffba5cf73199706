"""Alembic's scripts; ``gateway.store.schema`` runs them."""
