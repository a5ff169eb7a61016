"""Settings: unknown names are fatal, open binds are refused, everything is said at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.errors import SettingsError
from service.settings import is_loopback, read_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CANDOR_"):
            monkeypatch.delenv(name)


def test_defaults_bind_loopback_on_port_3000() -> None:
    settings = read_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 3000)
    assert str(settings.registry_place) == "var/registry"


def test_registry_may_be_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_HOME", "/a")
    assert str(read_settings().registry_place) == "/a/registry"
    monkeypatch.setenv("CANDOR_REGISTRY", "/b")
    assert str(read_settings().registry_place) == "/b"


def test_everything_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_PROT", "1")
    monkeypatch.setenv("CANDOR_PORT", "tcp://10.0.0.1:3000")
    monkeypatch.setenv("CANDOR_MAX_IMAGES", "0")
    with pytest.raises(SettingsError) as caught:
        read_settings()
    message = str(caught.value)
    assert "CANDOR_PROT is not a setting; did you mean CANDOR_PORT?" in message
    assert "CANDOR_PORT: " in message
    assert "tcp://10.0.0.1:3000" in message
    assert "CANDOR_MAX_IMAGES: " in message


def test_dataset_roots_are_folders_from_the_root_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_DATASET_ROOTS", "/srv/photos, /mnt/more")
    assert read_settings().dataset_roots == (Path("/srv/photos"), Path("/mnt/more"))
    monkeypatch.setenv("CANDOR_DATASET_ROOTS", "/srv/photos,photos")
    with pytest.raises(SettingsError, match="CANDOR_DATASET_ROOTS: 'photos' is relative"):
        read_settings()


def test_allowed_hosts_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_ALLOWED_HOSTS", "candor.example, other.example")
    assert read_settings().allowed_hosts == ("candor.example", "other.example")


def test_bounds_that_no_request_could_pass_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_QUEUE_LIMIT", "8")
    with pytest.raises(SettingsError, match="^CANDOR: MAX_IMAGES=64 is over QUEUE_LIMIT=8: such a request could never be taken$"):
        read_settings()


def test_metrics_cannot_have_the_port_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_METRICS_PORT", "3000")
    with pytest.raises(SettingsError, match="^CANDOR: METRICS_PORT=3000 is PORT too, expected another"):
        read_settings()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_open_bind_without_keys_is_refused_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("CANDOR_HOST", host)
    with pytest.raises(SettingsError, match="CANDOR_ALLOW_UNAUTHENTICATED=predict"):
        read_settings()
    monkeypatch.setenv("CANDOR_ALLOW_UNAUTHENTICATED", "predict")
    assert read_settings().host == host
    monkeypatch.delenv("CANDOR_ALLOW_UNAUTHENTICATED")
    monkeypatch.setenv("CANDOR_KEYS", "keys.json")
    assert read_settings().host == host


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("localhost.evil.example", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
