"""Keys: made, found, revoked, read again; a key file that is no good changes nothing while the service runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.errors import SettingsError
from service.access import SCOPES
from service.cli import main
from service.keys import LOOK_S, Keyring, create_key, read_keys, revoke_key


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secret" / "keys.json"


def test_token_is_found_and_is_nowhere_in_the_file(path: Path) -> None:
    key, token = create_key(path, ("train", "promote"), "ci")
    assert token.startswith("candor_")
    # 32 random bytes in base64
    assert len(token) == len("candor_") + 43
    assert token not in path.read_text()
    assert Keyring(path).find(token.encode()) == key
    (stored,) = json.loads(path.read_text())["keys"]
    assert stored["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert (stored["id"], stored["scopes"]) == ("ci", ["train", "promote"])


@pytest.mark.parametrize("token", [b"", b"candor_", b"candor_" + b"A" * 43, b"\xff\x00", b"x" * 100_000])
def test_what_is_no_token_finds_nothing(path: Path, token: bytes) -> None:
    create_key(path, ("predict",))
    assert Keyring(path).find(token) is None


def test_hash_of_a_token_is_not_a_token(path: Path) -> None:
    key, _ = create_key(path, ("predict",))
    assert Keyring(path).find(key.sha256.encode()) is None


def test_file_is_its_owners_and_stays_so(path: Path) -> None:
    create_key(path, ("predict",), "one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    create_key(path, ("predict",), "two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]


def test_link_to_the_file_stays_a_link(path: Path, tmp_path: Path) -> None:
    create_key(path, ("predict",), "one")
    link = tmp_path / "link.json"
    link.symlink_to(path)
    create_key(link, ("predict",), "two")
    assert link.is_symlink()
    assert [key.id for key in read_keys(path).keys] == ["one", "two"]


def test_train_does_not_promote_and_admin_does_everything(path: Path) -> None:
    trainer, _ = create_key(path, ("train",))
    admin, _ = create_key(path, ("admin",))
    assert trainer.granted == {"train"}
    assert admin.granted == set(SCOPES)


def test_two_keys_live_at_once_and_revoking_one_keeps_the_other(path: Path) -> None:
    clock = Clock()
    old, new = create_key(path, ("train",), "ci")[1], create_key(path, ("train",), "ci-2")[1]
    ring = Keyring(path, clock)
    assert [ring.find(token.encode()) is not None for token in (old, new)] == [True, True]
    revoke_key(path, "ci")
    clock.now += LOOK_S
    assert [ring.find(token.encode()) is not None for token in (old, new)] == [False, True]


def test_file_is_looked_at_once_a_second_and_no_oftener(path: Path) -> None:
    clock = Clock()
    create_key(path, ("train",), "one")
    ring = Keyring(path, clock)
    token = create_key(path, ("train",), "two")[1].encode()
    clock.now += LOOK_S - 0.01
    assert ring.find(token) is None
    clock.now += 0.01
    assert ring.find(token) is not None


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"keys": [{"id": "x"}]}'], ids=["gone", "empty", "torn", "wrong"])
def test_file_that_is_no_good_any_more_changes_nothing_and_is_logged_once(
    path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    token = create_key(path, ("train",), "ci")[1].encode()
    ring = Keyring(path, clock)
    good = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            clock.now += LOOK_S
            assert ring.find(token) is not None
    (record,) = caplog.records
    assert "the keys stay as they were: CANDOR_KEYS=" in record.getMessage()
    path.write_bytes(good.replace(b'"ci"', b'"cj"'))
    clock.now += LOOK_S
    found = ring.find(token)
    assert found is not None
    assert found.id == "cj"


ONE = {"id": "a", "sha256": "0" * 64, "scopes": ["predict"], "created": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([{**ONE, "scopes": ["predcit"]}], "keys.0.scopes.0: Input should be 'predict', 'explain'"),
        ([{**ONE, "scopes": []}], "keys.0.scopes: "),
        ([{**ONE, "sha256": "abc"}], "keys.0.sha256: "),
        ([{**ONE, "id": "../a"}], "keys.0.id: "),
        ([{**ONE, "created": "2026-01-01T00:00:00"}], "keys.0.created: "),
        ([{**ONE, "token": "candor_x"}], "keys.0.token: is not a known key"),
        ([ONE, ONE], "two keys have the id 'a', expected one"),
        ([ONE, {**ONE, "id": "b"}], "two keys have the sha256"),
    ],
)
def test_malformed_file_is_refused_with_what_is_wrong_in_one_line(tmp_path: Path, keys: object, words: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": keys}))
    with pytest.raises(SettingsError) as caught:
        Keyring(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_anybody_may_write_is_refused(path: Path) -> None:
    create_key(path, ("predict",))
    path.chmod(0o646)
    with pytest.raises(SettingsError, match=r"may be written by anybody \(mode 646\); chmod o-w it"):
        Keyring(path)


def test_missing_file_is_refused_with_what_to_do(path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"cannot be read \(No such file or directory\); make it with: python -m service keys"
    ):
        Keyring(path)


def test_taken_name_is_refused_and_the_key_still_works(path: Path) -> None:
    token = create_key(path, ("predict",), "ci")[1]
    with pytest.raises(SettingsError, match="there is a key 'ci'"):
        create_key(path, ("admin",), "ci")
    found = Keyring(path).find(token.encode())
    assert found is not None
    assert found.granted == {"predict"}


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a\n", "a/b", "x" * 64])
def test_odd_name_is_refused_and_no_file_is_made(path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="expected 1 to 63 of a-z 0-9"):
        create_key(path, ("predict",), name)
    assert not path.exists()


def test_keys_made_at_the_same_time_are_all_kept(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = [key[1] for key in pool.map(lambda number: create_key(path, ("predict",), f"k{number}"), range(24))]
    ring = Keyring(path)
    assert all(ring.find(token.encode()) is not None for token in tokens)


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        create_key(tmp_path / "file" / "keys.json", ("predict",))


@pytest.fixture
def _keys_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CANDOR_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CANDOR_KEYS", str(path))


@pytest.mark.usefixtures("_keys_in")
def test_commands_create_list_and_revoke(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--scope", "promote, train", "--id", "ci"]) == 0
    made = capsys.readouterr()
    token = made.out.strip()
    # Only the token is on stdout, for TOKEN=$(…).
    assert made.out == f"{token}\n"
    assert "key ci may train, promote" in made.err
    assert token not in made.err
    assert Keyring(path).find(token.encode()) is not None
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert listed.split()[0] == "ci"
    assert listed.split()[-1] == "train,promote"
    assert token not in listed
    assert main(["keys", "revoke", "ci"]) == 0
    assert Keyring(path).find(token.encode()) is None
    capsys.readouterr()
    assert main(["keys", "revoke", "ci"]) == 2
    assert "there is no key 'ci'" in capsys.readouterr().err


@pytest.mark.usefixtures("_keys_in")
def test_key_without_a_name_is_called_by_its_scope(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--scope", "train"]) == 0
    assert read_keys(path).keys[0].id.startswith("train-")
    assert capsys.readouterr().out.startswith("candor_")


@pytest.mark.usefixtures("_keys_in")
@pytest.mark.parametrize("scope", ["tarin", "", ",", "train,root"])
def test_unknown_scope_is_refused(path: Path, scope: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["keys", "create", "--scope", scope])
    assert caught.value.code == 2
    assert "is no scope, expected some of predict, explain, train, promote, admin, metrics" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.usefixtures("_keys_in")
def test_keys_without_a_file_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("CANDOR_KEYS")
    assert main(["keys", "list"]) == 2
    assert "CANDOR_KEYS is not set" in capsys.readouterr().err
