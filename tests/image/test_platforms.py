"""The locked packages on the platform that the images are not built for here."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.building import ROOT

pytestmark = pytest.mark.timeout(900)

GLIBC = 36
"""Debian bookworm's, 2.36: wheels for older ones work too."""


@pytest.mark.parametrize("lock", ["run", "build"])
def test_every_locked_package_has_a_wheel(tmp_path: Path, lock: str) -> None:
    """The image builds without a compiler there too: pip finds a wheel of each, with a hash that the lock knows."""
    machine = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    kinds = ("2014", *(f"_2_{minor}" for minor in range(17, GLIBC + 1)))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", f"--target={tmp_path}"]
    command += [
        *(f"--platform=manylinux{kind}_{machine}" for kind in kinds),
        "--require-hashes",
        "-r",
        str(ROOT / f"requirements/{lock}.txt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
