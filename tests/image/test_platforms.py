"""The locked packages on both platforms, without a machine of each."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.building import ROOT

pytestmark = pytest.mark.timeout(900)

GLIBC = 36
"""Debian bookworm's, 2.36: wheels for older ones work too."""


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("lock", ["run", "build"])
def test_every_locked_package_has_a_wheel(tmp_path: Path, machine: str, lock: str) -> None:
    """The image builds without a compiler on both: pip finds a wheel of each, with a hash that the lock knows."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(5, GLIBC + 1)]
    old = [f"--platform=manylinux{year}_{machine}" for year in ("2014",)]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", f"--target={tmp_path}"]
    command += [*platforms, *old, "--require-hashes", "-r", str(ROOT / f"requirements/{lock}.txt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
