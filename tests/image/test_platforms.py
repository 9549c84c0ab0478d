"""The images for the platform that this machine is not: built here, looked into, and run by an emulator."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.process import ROLES
from tests.image.building import BOTH, HERE, IMAGES, MACHINES, ROOT, THERE, VERSION, Image
from tests.image.containers import Container
from tests.image.test_agent import THIEF, WEB, answering
from tests.image.test_contents import debian_packages, environment, installed

pytestmark = pytest.mark.timeout(3_600)

GLIBC = 36
"""Debian bookworm's, 2.36: wheels for older ones work too."""

ELF = {"amd64": 62, "arm64": 183}
"""The numbers of machines in the heads of programs and libraries: elf.h's EM_X86_64 and EM_AARCH64."""


def machine(path: Path) -> int:
    """For which machine a program or library is, by its head; both platforms write the low byte first."""
    head = path.read_bytes()[:20]
    assert head[:4] == b"\x7fELF", path
    return int.from_bytes(head[18:20], "little")


def packages(image: Image) -> dict[str, str]:
    """Debian's packages and their versions, without the number of a platform's own rebuild."""
    return {name: re.sub(r"\+b\d+$", "", version) for name, version in debian_packages(image).items()}


def test_nothing_but_debians_packages_is_installed_by_the_emulator(there: dict[str, Image]) -> None:
    """What pip and the compiler of bytecode do would take minutes there: they run on this platform."""
    store = there["agent"].store
    stage = store.build_stage("build", *store.arguments_there)
    assert machine((stage.root / "usr/bin/python3").resolve()) == ELF[HERE]


@pytest.mark.parametrize("target", IMAGES)
def test_all_in_it_is_of_that_platform(there: dict[str, Image], target: str) -> None:
    """As it says of itself, its Python, and each library that pip put there."""
    image = there[target]
    assert (image.about["architecture"], image.about["os"]) == (THERE, "linux")
    libraries = sorted(environment(image).rglob("*.so*"))
    assert len(libraries) > 10
    python = (image.root / "usr/bin/python3").resolve()
    assert {path: machine(path) for path in (python, *libraries)} == dict.fromkeys((python, *libraries), ELF[THERE])


@pytest.mark.parametrize("target", IMAGES)
def test_the_same_packages_as_here(images: dict[str, Image], there: dict[str, Image], target: str) -> None:
    """Debian's and Python's, at the same versions."""
    assert packages(there[target]) == packages(images[target])
    assert installed(there[target]) == installed(images[target])


@pytest.mark.parametrize("target", IMAGES)
def test_it_starts(there: dict[str, Image], tmp_path: Path, target: str) -> None:
    """As the image's user, on a root that nobody can write to."""
    done = Container(image=there[target], folder=tmp_path, arguments=("--version",)).run()
    assert (done.returncode, VERSION in done.stdout) == (0, True), done.stderr


async def test_it_answers_pods(there: dict[str, Image], tmp_path: Path) -> None:
    """Credentials for whom they are, a refusal for whom not."""
    async with answering(there["agent"], tmp_path) as agent:
        status, body = await agent.ask(WEB, f"{ROLES}shop-web")
        assert (status, json.loads(body)["Code"]) == (200, "Success")
        status, body = await agent.ask(THIEF)
        assert (status, json.loads(body)["code"]) == (403, "NotPermitted")


def test_a_runtime_of_the_operators_own_is_of_that_platform(there: dict[str, Image]) -> None:
    """One name that a registry has for both: the other platform's is what the agent's image is made on."""
    store = there["agent"].store
    made = store.build_stage("agent", *store.arguments_there, "--build-arg", f"RUNTIME={BOTH}")
    assert machine((made.root / "usr/bin/dpkg").resolve()) == ELF[THERE]


@pytest.mark.parametrize("lock", ["run", "build"])
def test_every_locked_package_has_a_wheel(tmp_path: Path, lock: str) -> None:
    """A builder of that platform needs no compiler either: pip finds wheels of all, with hashes that the lock knows."""
    kinds = ("2014", *(f"_2_{minor}" for minor in range(17, GLIBC + 1)))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", f"--target={tmp_path}"]
    command += [
        *(f"--platform=manylinux{kind}_{MACHINES[THERE]}" for kind in kinds),
        "--require-hashes",
        "-r",
        str(ROOT / f"requirements/{lock}.txt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
