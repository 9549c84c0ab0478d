"""What docs/image.md tells people to type: built with buildah and podman, and run with podman.

The page's docker needs a daemon, for which there is no place here. podman takes the same words, and stands in for it.
"""

import shlex
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.fakes.desk import Desk
from tests.guides import Typed
from tests.image.building import ROOT, VERSION, Image
from tests.image.test_agent import MANIFESTS
from tests.network.lab.namespaces import Namespace

pytestmark = pytest.mark.timeout(900)

CONTAINERS = """\
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
"""
"""podman's settings: no limits are set, so no cgroups are wanted, and no more descriptors than are to be had."""


@pytest.fixture
def desk(agent: Image, tmp_path: Path) -> Desk:
    """With the images of the other tests, made by the same builders."""
    store = agent.store
    (tmp_path / "containers.conf").write_text(CONTAINERS)
    podman = tmp_path / "podman"
    # As crun of the other tests: it wants to see cgroups of version 2 and nothing else.
    script = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec "$@"'
    words = ("podman", *store.words[1:], "--tmpdir", str(tmp_path / "tmp"))
    podman.write_text(f'#!/bin/sh\nexec unshare -m sh -ec {shlex.quote(script)} - {shlex.join(words)} "$@"\n')
    podman.chmod(0o755)
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "pods.yaml").write_text(MANIFESTS)
    programs = {"buildah": shlex.join(store.words), "docker": str(podman), "podman": str(podman)}
    return Desk(tmp_path / "desk", programs, CONTAINERS_CONF=str(tmp_path / "containers.conf"))


@pytest.mark.runs("docs/image.md", "make image", "make image BUILDER=podman", "make image BUILDER=buildah")
def test_build(desk: Desk, agent: Image, typed: Typed) -> None:
    """Each builder makes both images; what this machine needs for it goes in by ARGS, as the page says."""
    for line in typed.each():
        said = desk.type(f"cd {ROOT}; {line} {shlex.quote(f'ARGS={shlex.join(agent.store.arguments)}')}")
        for name in ("metaproxy", "metaproxy-redirect"):
            assert f"localhost/{name}:{VERSION}" in said, said


@pytest.mark.runs("docs/image.md", "docker run …")
def test_verify(desk: Desk, typed: Typed) -> None:
    """The version, an agent that listens, and a redirect that is not in place; on a node without networks."""
    version, run, check = (line.replace("VERSION", VERSION) for line in typed.each())
    assert VERSION in desk.type(version)
    node = Namespace("page")
    try:
        within = shlex.join(node.command())
        agent = desk.start(f"{within} {run}")
        try:
            agent.wait_for("listening")
        finally:
            agent.end(SIGTERM)
        assert agent.popen.returncode == 0, agent.lines
        assert "metaproxy redirect apply" in desk.type(f"{within} {check}", 1)
    finally:
        node.close()
