"""How origins may be spelt in the configuration, and which pages may connect then."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from gateway.config.origins import Origins, normalize_origin
from gateway.config.settings import SettingsError
from gateway.config.sources import load_settings


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://app.example.com/", "https://app.example.com"),
        ("HTTPS://App.Example.com", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80/", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("null", "null"),
    ],
)
def test_spellings_become_what_browsers_send(written: str, sent: str) -> None:
    assert normalize_origin(written) == sent
    assert load_settings(None, {"GATEWAY_ALLOWED_ORIGINS": written}, {}).allowed_origins == [sent]


@pytest.mark.parametrize(
    "written",
    [
        "app.example.com",
        "*",
        "https://*.example.com",
        "https://",
        "https://app.example.com/page",
        "https://app.example.com?a",
        "https://user@app.example.com",
        "https://app.example.com:port",
        "https://app.example.com:70000",
    ],
)
def test_what_no_browser_sends_stops_the_start(written: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'allowed_origins = ["https://good.example", "{written}"]\n')
    with pytest.raises(SettingsError) as caught:
        load_settings(file, {}, {})
    assert str(caught.value).startswith(f"allowed_origins: {written!r} cannot be used: ")


def test_a_refusal_is_logged_once_a_second() -> None:
    origins = Origins(["https://app.example.com"])
    with structlog.testing.capture_logs() as lines:
        assert origins.allows("https://app.example.com", 10.0)
        assert origins.allows(None, 10.0)
        assert not any(origins.allows("https://evil.example", 10.0 + at / 4) for at in range(8))
    assert [line["origin"] for line in lines] == ["https://evil.example"] * 2


def test_without_a_list_every_page_may_connect() -> None:
    assert Origins([]).allows("https://any.example", 0.0)
