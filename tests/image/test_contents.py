"""What is in the images, and what must not be; what they say of themselves."""

import os
import re
import subprocess
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path

import pytest

import metaproxy
from tests.image.building import IMAGES, ROOT, VERSION, Image, run

pytestmark = pytest.mark.timeout(900)

TARGETS = tuple(IMAGES)

UNWANTED = re.compile(
    r"pip[0-9.]*|easy_install|gcc.*|g\+\+.*|cc|c\+\+|cpp|clang.*|as|ld|ld\.bfd|ld\.gold|make|cargo|rustc|go|git|curl|wget"
)
"""Programs with which more could be brought in, or made."""

TOOLS = ("nft", "iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy", "conntrack", "ip")

MOST = {"agent": (300, 95), "redirect": (310, 100)}
"""MB of an image, on the disk and as a registry stores it: some more than measured, so that growth is seen."""


@pytest.fixture(params=TARGETS)
def image(request: pytest.FixtureRequest, images: dict[str, Image]) -> Image:
    """Each of them."""
    return images[request.param]


def environment(image: Image) -> Path:
    """Where what runs is installed."""
    (found,) = image.root.glob("opt/metaproxy/lib/python3.*/site-packages")
    return found


def installed(image: Image) -> dict[str, str]:
    """The Python packages and their versions."""
    found = distributions(path=[str(environment(image))])
    return {re.sub(r"[-_.]+", "-", each.name).lower(): each.version for each in found}


def debian_packages(image: Image) -> dict[str, str]:
    """The packages of Debian and their versions."""
    blocks = (image.root / "var/lib/dpkg/status").read_text().strip().split("\n\n")
    read = (HeaderParser().parsestr(block) for block in blocks)
    return {each["Package"]: each["Version"] for each in read if each["Status"] == "install ok installed"}


def programs(image: Image) -> set[str]:
    """The names of everything that the image's PATH leads to."""
    (path,) = (value.removeprefix("PATH=") for value in image.config["Env"] if value.startswith("PATH="))
    folders = (image.root / folder.lstrip("/") for folder in path.split(":"))
    return {each.name for folder in folders if folder.is_dir() for each in folder.iterdir()}


def locked() -> dict[str, str]:
    """What the lock wants, by name."""
    lines = (ROOT / "requirements/run.txt").read_text().splitlines()
    return {found[1]: found[2] for line in lines if (found := re.match(r"([a-z0-9-]+)==([^ ;]+)", line))}


def test_exactly_what_is_locked(image: Image) -> None:
    """The locked packages at their versions and metaproxy itself: no pip, no moto, nothing else."""
    assert installed(image) == {**locked(), "metaproxy": VERSION}


def test_nothing_to_bring_in_or_make_more_with(image: Image) -> None:
    """No installer of Python packages, no compiler, no downloader, by program or by Debian's name."""
    assert {name for name in programs(image) if UNWANTED.fullmatch(name)} == set()
    packages = debian_packages(image)
    unwanted = re.compile(r"python3-(pip|venv|dev|setuptools|wheel)|python3\.\d+-(venv|dev)|gcc-[0-9]+|cpp.*|binutils")
    assert {name for name in packages if unwanted.fullmatch(name)} == set()
    for name in ("pip", "setuptools", "moto", "ensurepip/_bundled"):
        assert not list(image.root.glob(f"usr/lib/python3*/{name}")), name
        assert not list(image.root.glob(f"usr/lib/python3*/*-packages/{name}")), name


def test_the_redirect_has_its_tools_and_the_agent_has_not(images: dict[str, Image]) -> None:
    """Whoever breaks into the agent finds no tool for the node's network."""
    assert set(TOOLS) <= programs(images["redirect"])
    assert not set(TOOLS) & programs(images["agent"])


def test_nothing_belongs_to_the_user_that_runs_it(agent: Image) -> None:
    """What runs cannot change itself, were the root writable: all of it is root's, and writable for nobody else."""
    for folder, _, names in os.walk(agent.root / "opt"):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            about = path.lstat()
            assert (about.st_uid, about.st_gid) == (0, 0), path
            assert path.is_symlink() or not about.st_mode & 0o022, path


def test_how_they_are_run(images: dict[str, Image]) -> None:
    """The agent as a numbered user, the redirect as root, the command without a shell; nothing for Python to write."""
    both = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    for target, user, words, names in (
        ("agent", "65532:65532", ["run"], both | {"HOME"}),
        ("redirect", "0:0", ["redirect", "watch"], both),
    ):
        config = images[target].config
        assert config["User"] == user
        assert config["Entrypoint"] == ["/opt/metaproxy/bin/metaproxy"]
        assert config["Cmd"] == words
        assert {value.partition("=")[0] for value in config["Env"]} == names
        assert config.get("Volumes") is None
        assert config.get("ExposedPorts") is None
        assert len(images[target].about["rootfs"]["diff_ids"]) == len(
            [each for each in images[target].about["history"] if not each.get("empty_layer")]
        )


def test_what_they_say_of_themselves(images: dict[str, Image]) -> None:
    """OCI's labels: the version is the program's, the revision and the time are the commit's."""
    assert metaproxy.__version__ == VERSION
    for target, image in images.items():
        labels = {
            name.removeprefix("org.opencontainers.image."): value
            for name, value in image.config["Labels"].items()
            if name.startswith("org.opencontainers.image.")
        }
        assert labels.pop("description")
        assert labels == {
            "title": IMAGES[target],
            "licenses": "Apache-2.0",
            "version": VERSION,
            "revision": run("git", "rev-parse", "HEAD").strip(),
            "created": run("git", "log", "-1", "--format=%cI").strip(),
        }


def test_size(images: dict[str, Image], capsys: pytest.CaptureFixture[str]) -> None:
    """How much each is, and of what; said, and bounded."""
    for target, image in images.items():
        done = subprocess.run(
            ["du", "-s", "-x", "--block-size=1", str(image.root)], capture_output=True, text=True, check=True
        )
        disk, stored = int(done.stdout.split()[0]) / 1e6, image.compressed() / 1e6
        python, debian = installed(image), debian_packages(image)
        with capsys.disabled():
            print(f"\nimage {target}: {disk:.0f} MB, compressed {stored:.0f} MB")
            print(f"  {len(python)} Python packages: {' '.join(sorted(python))}")
            print(f"  {len(debian)} Debian packages: {' '.join(sorted(debian))}")
        assert disk < MOST[target][0]
        assert stored < MOST[target][1]
