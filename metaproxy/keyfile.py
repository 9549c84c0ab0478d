"""The key that signs IMDSv2 tokens: one file on the node, made when it is not there.

Knows: how to make a secret file that nobody sees half-written.
Must not know: what the key is for.
"""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path


class KeyFileError(Exception):
    """The file cannot be used: says why and what to do."""


def load(path: Path, *, size: int) -> bytes:
    """The key in the file; made with mode 0600, atomically, when absent. Two that start at once agree on one key.

    Raises:
        KeyFileError: the file has another size, others may read it, or it can be neither read nor made.
    """
    try:
        if not path.exists():
            _make(path, size)
        if path.stat().st_mode & 0o077:
            raise KeyFileError(f"{path} may be read by others: whoever has it can make tokens; chmod 600 it")
        key = path.read_bytes()
    except OSError as error:
        raise KeyFileError(
            f"{path}: {error.strerror}; name a file that the agent may make in --tokens.key-file"
        ) from error
    if len(key) != size:
        raise KeyFileError(f"{path} has {len(key)} bytes and not {size}; remove it, and a new one is made")
    return key


def _make(path: Path, size: int) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(size))
            file.flush()
            os.fsync(file.fileno())
        # link() refuses to replace: the first of two processes wins and both read its key.
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
