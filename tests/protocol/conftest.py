"""Hypothesis counts examples here, not milliseconds: the machine may be busy."""

from hypothesis import settings

settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
