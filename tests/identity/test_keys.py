"""The key folder: made, rotated, kept as long as tokens live."""

from __future__ import annotations

from pathlib import Path

import pytest

from pileus.errors import StartupError
from pileus.identity.keys import Keys

DAY, HOUR = 86400.0, 3600.0


def keys(folder: Path, rotation: float = DAY, lifetime: float = HOUR) -> Keys:
    return Keys(folder, rotation=rotation, lifetime=lifetime)


def test_the_first_start_makes_a_key_that_only_we_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "keys" / "fernet"
    keys(folder).open(1000.0)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [("1000.key", 0o600)]


def test_a_folder_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "fernet"
    folder.mkdir(mode=0o755)
    keys(folder).open(1000.0)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_tokens_live_through_a_restart_and_a_rotation_and_the_old_key_goes_when_they_have_ended(tmp_path: Path) -> None:
    first = keys(tmp_path)
    first.open(0.0)
    token = first.seal(b"payload")
    assert "=" not in token

    again = keys(tmp_path)
    again.open(DAY - 1)
    assert again.unseal(token) == b"payload"
    assert again.rotate(DAY - 1) == 1.0
    assert len(list(tmp_path.iterdir())) == 1

    assert again.rotate(DAY) == DAY  # a new key now, the next one in a day
    assert len(list(tmp_path.iterdir())) == 2
    assert again.unseal(token) == b"payload"
    assert first.unseal(again.seal(b"x")) is None  # the new key signs

    again.rotate(DAY + HOUR)
    assert again.unseal(token) == b"payload"
    again.rotate(DAY + HOUR + 2)
    assert again.unseal(token) is None
    assert [path.name for path in tmp_path.iterdir()] == [f"{DAY:.0f}.key"]


def test_many_keys_are_kept_where_tokens_live_longer_than_a_rotation(tmp_path: Path) -> None:
    ring = keys(tmp_path, rotation=HOUR, lifetime=3 * HOUR)
    tokens = []
    for hour in range(8):
        ring.rotate(hour * HOUR)
        tokens.append(ring.seal(b"%d" % hour))
    good = [ring.unseal(token) is not None for token in tokens]
    assert good == [False] * 3 + [True] * 5  # a key signs for one hour and is kept three more


def test_a_clock_that_was_set_back_changes_nothing(tmp_path: Path) -> None:
    ring = keys(tmp_path)
    ring.open(10 * DAY)
    token = ring.seal(b"x")
    again = keys(tmp_path)
    again.open(0.0)
    assert again.unseal(token) == b"x"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_was_cut_off_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "5.part").write_bytes(b"half a k")
    keys(tmp_path).open(5.0)
    assert [path.name for path in tmp_path.iterdir()] == ["5.key"]


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "7.key").write_text("nonsense")
    with pytest.raises(StartupError, match=r"7\.key holds no Fernet key; restore it, or remove it"):
        keys(tmp_path).open(8.0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"token keys in .*file/fernet: Not a directory"):
        keys(tmp_path / "file" / "fernet").open(0.0)


@pytest.mark.parametrize("text", ["", "=", "x", "gAAAAAB", "é", "gAAAAAB" + "A" * 200, "\x00", "a b"])
def test_nonsense_is_no_token(tmp_path: Path, text: str) -> None:
    ring = keys(tmp_path)
    ring.open(0.0)
    assert ring.unseal(text) is None
