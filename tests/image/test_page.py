"""What docs/image.md tells people to type: built with buildah, podman and docker, and run with docker.

buildah and podman share a store with the other tests, where each finds the layers that are made already; docker has a
daemon of its own, and makes all.
"""

import shlex
import shutil
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.fakes.desk import Desk
from tests.guides import Typed
from tests.image.building import ROOT, VERSION, Image
from tests.image.daemon import Docker
from tests.image.test_agent import MANIFESTS
from tests.network.lab.namespaces import Namespace

pytestmark = pytest.mark.timeout(1_800)

CONTAINERS = """\
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "crun"
"""
"""podman's settings: no limits are set, so no cgroups are wanted, and no more descriptors than are to be had."""


@pytest.fixture
def desk(agent: Image, tmp_path: Path) -> Desk:
    """With the images of the other tests, made by the same builders."""
    builder, *places = agent.store.words
    settings = tmp_path / "containers.conf"
    settings.write_text(CONTAINERS)
    # Where they are: by their names alone they would be found at the desk, and call themselves.
    buildah, podman = (shlex.join([str(shutil.which(name)), *places]) for name in (builder, "podman"))
    # As crun of the other tests: it wants to see cgroups of version 2 and nothing else.
    script = f'mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec {podman} --tmpdir {tmp_path / "tmp"} "$@"'
    podman = f"unshare -m sh -ec {shlex.quote(script)} podman"
    (tmp_path / "desk").mkdir()
    return Desk(tmp_path / "desk", {"buildah": buildah, "podman": podman}, CONTAINERS_CONF=str(settings))


@pytest.mark.runs("docs/image.md", "make image BUILDER=podman", "make image BUILDER=buildah")
def test_build(desk: Desk, agent: Image, typed: Typed) -> None:
    """Each builder tags both images; what this machine needs for it goes in by ARGS, as the page says."""
    for line in typed.each():
        said = desk.type(f"cd {ROOT}; {line} {shlex.quote(f'ARGS={shlex.join(agent.store.arguments)}')}")
        for name in ("metaproxy", "metaproxy-redirect"):
            assert f"localhost/{name}:{VERSION}" in said, said


@pytest.mark.runs("docs/image.md", "make image", "docker run …")
def test_docker(tmp_path: Path, typed: Typed) -> None:
    """Built; then, on a node without networks: the version, an agent that listens, a redirect that is not in place."""
    places = tmp_path / "docker", tmp_path / "desk"
    for place in places:
        place.mkdir()
    (places[1] / "pods.yaml").write_text(MANIFESTS)
    version, run, check = (line.replace("VERSION", VERSION) for line in typed.each("docker run …"))
    desk = Desk(places[1], {"docker": Docker(places[0]).command})
    with Docker(places[0]) as docker:
        desk.type(f"cd {ROOT}; {typed('make image')} {shlex.quote(f'ARGS={shlex.join(docker.base())}')}")
    node = Namespace("page")
    try:
        # Containers on the host's network are where the daemon is. `ip netns` would hide the cgroups from it.
        with Docker(places[0], "nsenter", f"--net=/run/netns/{node.name}"):
            assert VERSION in desk.type(version)
            agent = desk.start(run)
            try:
                agent.wait_for("listening")
            finally:
                agent.end(SIGTERM)
            assert agent.popen.returncode == 0, agent.lines
            assert "rules: IPv4: no table ip metaproxy\n" in desk.type(check, 1)
    finally:
        node.close()
    assert str(places[0]) not in Path("/proc/mounts").read_text()
