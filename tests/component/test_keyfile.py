"""The file of the key that signs tokens."""

import asyncio
from pathlib import Path

import pytest

from metaproxy import keyfile
from metaproxy.keyfile import KeyFileError


def test_made_for_its_owner_only(tmp_path: Path) -> None:
    """An absent file is made, readable by its owner alone, and nothing else is left in the folder."""
    key = keyfile.load(tmp_path / "key", size=32)

    assert len(key) == 32
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_kept(tmp_path: Path) -> None:
    """The second start finds the key of the first."""
    assert keyfile.load(tmp_path / "key", size=32) == keyfile.load(tmp_path / "key", size=32)


async def test_two_that_start_at_once_agree(tmp_path: Path) -> None:
    """However many make it at the same time, all of them read one key."""
    keys = await asyncio.gather(*(asyncio.to_thread(keyfile.load, tmp_path / "key", size=32) for _ in range(16)))

    assert len(set(keys)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_readable_by_others(tmp_path: Path, mode: int) -> None:
    """A key that others can read is refused: whoever has it makes tokens."""
    keyfile.load(tmp_path / "key", size=32)
    (tmp_path / "key").chmod(mode)

    with pytest.raises(KeyFileError, match="chmod 600"):
        keyfile.load(tmp_path / "key", size=32)


def test_wrong_size(tmp_path: Path) -> None:
    """A file that is no key of ours is not taken for one."""
    (tmp_path / "key").write_bytes(b"short")
    (tmp_path / "key").chmod(0o600)

    with pytest.raises(KeyFileError, match="5 bytes"):
        keyfile.load(tmp_path / "key", size=32)


def test_no_such_folder(tmp_path: Path) -> None:
    """A file that cannot be made names itself and the setting."""
    with pytest.raises(KeyFileError, match=r"--tokens\.key-file"):
        keyfile.load(tmp_path / "nowhere" / "key", size=32)
