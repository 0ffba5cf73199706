"""Settings of gateways under test."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.config.settings import (
    AuthSettings,
    LimitSettings,
    OverloadSettings,
    RateSettings,
    Settings,
    SettingsError,
)

__all__ = ["SECRET", "make_settings"]

SECRET = "only-for-tests-only-for-tests-only-for-tests"
"""What tokens are signed with, unless ``auth`` says otherwise."""


def make_settings(**changes: Any) -> Settings:
    """Settings for a gateway under test; a group is changed by a dict: ``limits={"message_bytes": 2048}``.

    A group given as the class of its settings replaces the whole group. There is no database unless
    ``database`` names one, and connections are not limited. No load is shed for lateness or memory: a busy
    machine stops for seconds.

    Raises ``SettingsError`` for what is no setting, or has a value that it cannot have.
    """
    base = Settings(
        port=0,
        node="test",
        auth=AuthSettings(secret=SECRET),
        database="none",
        limits=LimitSettings(connections_per_ip=0, connections_per_user=0),
        overload=OverloadSettings(loop_lag=0, memory_share=0),
        rates=RateSettings(connections_per_ip=0, connections_per_user=0),
    )
    raw = msgspec.to_builtins(base)
    for name, value in changes.items():
        if isinstance(value, msgspec.Struct):
            raw[name] = msgspec.to_builtins(value)
        else:
            raw[name] = {**raw[name], **value} if isinstance(raw.get(name), dict) else value
    try:
        return msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(str(error)) from None
