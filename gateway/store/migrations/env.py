"""Alembic runs this; the connection, and its transaction, are those of ``gateway.store.schema``."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
