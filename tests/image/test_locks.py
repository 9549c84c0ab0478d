"""What the locks are for: nothing goes in whose hash they do not know, and nothing that would have to be compiled."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.building import PATIENCE, ROOT, Image, run

pytestmark = pytest.mark.timeout(3_600)

HASH = re.compile(r" *\\?\n? *--hash=sha256:[0-9a-f]{64}")


def altered(text: str, _: Path) -> str:
    """Each hash is that of something else."""
    return re.sub(r"(--hash=sha256:)(.)", lambda found: found[1] + ("0" if found[2] != "0" else "1"), text)


def forgotten(text: str, _: Path) -> str:
    """No hash at all, which pip by itself takes for a wish for none."""
    return HASH.sub("", text)


def source(text: str, folder: Path) -> str:
    """Of one package the hash of its source alone, which pip by itself would build a wheel of."""
    found = re.search(r"^(idna|pathspec)==[^ ]+", text, re.MULTILINE)
    assert found
    # Its own tool of building would be wanted to look into it: what is fetched is enough.
    run("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", "-d", str(folder), found[0])
    (archive,) = folder.glob("*.tar.gz")
    known = run("python3", "-m", "pip", "hash", str(archive)).split()[-1]
    assert known.removeprefix("--hash=") in text
    return f"{found[0]} {known}\n"


@pytest.mark.parametrize("lock", ["build", "run"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (altered, "THESE PACKAGES DO NOT MATCH THE HASHES"),
        (forgotten, "Hashes are required in --require-hashes mode"),
        # Of wheels none is left, and pip says so with the one that it would have taken.
        (source, "THESE PACKAGES DO NOT MATCH THE HASHES"),
    ],
)
def test_the_build_stops(
    agent: Image, tmp_path: Path, lock: str, change: Callable[[str, Path], str], words: str
) -> None:
    """At the lock that is not as it was, with pip's own words."""
    context, fetched = tmp_path / "context", tmp_path / "fetched"
    fetched.mkdir()
    for name in ("requirements", "metaproxy"):
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, context)
    path = context / "requirements" / f"{lock}.txt"
    path.write_text(change(path.read_text(), fetched))
    command = [*agent.store.words, "build", "--target", "build", *agent.store.arguments, str(context)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert words in said
    assert f"requirements/{lock}.txt" in said.rpartition("STEP ")[2].partition("\n")[0]
