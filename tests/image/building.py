"""Builds the images as an operator does, on a Debian that is made here: no daemon, no registry of images.

Knows: mmdebstrap, buildah, how this machine comes by packages.
Must not know: what the images are for.

The Debian is kept in the user's cache folder, by the hash of what it is made from; everything else lives in the test's
own folder.
"""

import ast
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VERSION = "0.1.0"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""The platforms of the images as registries call them, and as the kernel does."""

HERE, THERE = sorted(MACHINES, key=lambda name: MACHINES[name] != platform.machine())
"""This machine's platform, and the other."""

DEBIAN, BOTH, BARE = "localhost/debian:test", "localhost/debian:both", "localhost/bare:test"
"""Images: a Debian, the same on both platforms under one name as a registry has it, and one without a shell."""

IMAGES = {"agent": "metaproxy", "redirect": "metaproxy-redirect"}
"""The targets of the Dockerfile and the names of what they make."""

PATIENCE = 1_800.0
"""Seconds for a step: many times what it takes."""

_TARBALL = (
    "mmdebstrap",
    "--variant=minbase",
    # Else the package that merges /usr is taken, and Perl with it.
    "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
    "--include=usr-is-merged",
    # What the slim images of Debian leave out.
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "lintian", "locale", "man")),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)
_APT = re.compile(r"^Acquire::(http|https|Check|Retries)[^ ]* \"[^\"]+\";$", re.MULTILINE)
"""Those of the machine's settings of apt without which it may not reach its packages."""


def run(*command: str, folder: Path = ROOT) -> str:
    """What a command printed; it must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4_000:]}{done.stderr[-8_000:]}"
    return done.stdout


def debian(architecture: str = HERE) -> Path:
    """A minimal Debian of this machine's release, as a tarball: what debian:RELEASE-slim is."""
    release = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    assert release, "this is no Debian"
    known = map(Path, ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"))
    sources = [path for path in known if path.exists() and path.stat().st_size]
    options = [found[0] for found in _APT.finditer(run("apt-config", "dump"))]
    command = (*_TARBALL, f"--architectures={architecture}", *(f"--aptopt={option}" for option in options), release[1])
    digest = hashlib.sha256(repr([command, *(path.read_bytes() for path in sources)]).encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME", "")
    cache = (Path(home) if home.startswith("/") else Path.home() / ".cache") / "metaproxy" / "image"
    tarball = cache / f"debian-{digest}.tar"
    if not tarball.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = cache / f"making-{os.getpid()}-{digest}.tar"
        try:
            run(*command, str(made), *map(str, sources))
            made.replace(tarball)
        finally:
            made.unlink(missing_ok=True)
    return tarball


def pip_settings(folder: Path) -> Path:
    """This machine's settings of pip, and the files that they name, as a folder for /etc/xdg/pip."""
    lines = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    values = {}
    for line in lines:
        name, _, value = line.partition("=")
        values[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    folder.mkdir()
    if certificates := values.get("cert"):
        shutil.copyfile(certificates, folder / "ca.crt")
        values["cert"] = "/etc/xdg/pip/ca.crt"
    # A folder of this machine is not there in the build.
    kept = {name: value for name, value in values.items() if name != "find-links" or "://" in value}
    text = "[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items())
    (folder / "pip.conf").write_text(text)
    return folder


@dataclass(frozen=True)
class Store:
    """Where images and containers of the test are kept."""

    folder: Path

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The command buildah on this store. Where the kernel or the disk has no overlays, it copies: slow."""
        places = ("--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"))
        return ("buildah", *places, "--storage-driver", "overlay" if _has_overlays(self.folder) else "vfs")

    def buildah(self, *arguments: str) -> str:
        """What buildah printed, without the line's end."""
        return run(*self.words, *arguments).strip()

    def build(self) -> dict[str, "Image"]:
        """Both images, by the command that the documents name."""
        self._debian(HERE, DEBIAN)
        pip_settings(self.folder / "pip")
        run("make", "image", f"BUILDER={' '.join(self.words)}", f"ARGS={' '.join(self.arguments)}")
        return {target: Image(self, f"localhost/{name}:{VERSION}") for target, name in IMAGES.items()}

    def build_there(self) -> dict[str, "Image"]:
        """Both images for the other platform; what is of that platform itself is run by an emulator."""
        here = self.buildah("images", "--quiet", "--no-trunc", DEBIAN)
        self.buildah("manifest", "create", BOTH)
        for made in (here, self._debian(THERE, f"localhost/debian:{THERE}")):
            self.buildah("manifest", "add", BOTH, made.removeprefix("sha256:"))
        arguments = " ".join(self.arguments_there)
        run("make", "image", f"VERSION={THERE}", f"BUILDER={' '.join(self.words)}", f"ARGS={arguments}")
        return {target: Image(self, f"localhost/{name}:{THERE}") for target, name in IMAGES.items()}

    def build_stage(self, stage: str, *arguments: str) -> "Image":
        """A stage of the Dockerfile as an image."""
        name = f"localhost/{stage}:stage"
        self.buildah("build", "--target", stage, "--tag", name, *arguments, str(ROOT))
        return Image(self, name)

    def _debian(self, architecture: str, name: str) -> str:
        """The Debian of a platform as an image; its identity."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(debian(architecture)), "/")
        self.buildah("config", "--arch", architecture, container)
        return self.buildah("commit", "--quiet", "--rm", container, name)

    def build_bare(self) -> "Image":
        """The agent's image on a runtime without a shell and without Debian's tools, made of the first stage."""
        self.buildah("build", "--target", "python", "--tag", BARE, *self.arguments, str(ROOT))
        container = self.buildah("from", "--pull-never", BARE)
        root = Path(self.buildah("mount", container))
        for name in ("bash", "dash", "sh", "apt-get", "dpkg", "perl"):
            (root / "usr/bin" / name).unlink()
        self.buildah("commit", "--quiet", "--rm", container, BARE)
        arguments = ("--build-arg", f"RUNTIME={BARE}", *self.arguments)
        run("make", "image-agent", "VERSION=bare", f"BUILDER={' '.join(self.words)}", f"ARGS={' '.join(arguments)}")
        return Image(self, "localhost/metaproxy:bare")

    @property
    def arguments(self) -> tuple[str, ...]:
        """What goes to a builder so that it finds the Debian made here, and its packages."""
        volume = f"{self.folder / 'pip'}:/etc/xdg/pip:ro"
        return ("--isolation", "chroot", "--layers", "--build-arg", f"DEBIAN={DEBIAN}", "--volume", volume)

    @property
    def arguments_there(self) -> tuple[str, ...]:
        """The same for the other platform. buildah of 1.28 does not know the builder's own by itself."""
        platforms = ("--platform", f"linux/{THERE}", "--build-arg", f"BUILDPLATFORM=linux/{HERE}")
        return (*self.arguments, "--build-arg", f"DEBIAN={BOTH}", *platforms)

    def close(self) -> None:
        """Unmount everything; the folder can go."""
        self.buildah("rm", "--all")


@dataclass(frozen=True)
class Image:
    """A built image."""

    store: Store
    name: str

    @cached_property
    def about(self) -> dict[str, Any]:
        """The OCI description: config, layers, history."""
        return dict(json.loads(self.store.buildah("inspect", "--type", "image", self.name))["OCIv1"])

    @cached_property
    def config(self) -> dict[str, Any]:
        """How a container of it is run."""
        return dict(self.about["config"])

    @cached_property
    def root(self) -> Path:
        """Its files. Whoever runs a container on them mounts them read-only."""
        return Path(self.store.buildah("mount", self.store.buildah("from", "--pull-never", self.name)))

    def compressed(self) -> int:
        """Bytes of its layers as a registry stores them."""
        folder = self.store.folder / f"pushed-{self.name.rpartition('/')[2].replace(':', '-')}"
        self.store.buildah("push", self.name, f"oci:{folder}:x")
        manifest = json.loads((folder / "index.json").read_text())["manifests"][0]["digest"]
        layers = json.loads((folder / "blobs" / manifest.replace(":", "/")).read_text())["layers"]
        return sum(layer["size"] for layer in layers)


def _has_overlays(folder: Path) -> bool:
    """Whether an overlay can be mounted in the folder: not on every kernel, and not on top of another overlay."""
    places = {name: folder / "try" / name for name in ("lower", "upper", "work", "merged")}
    for place in places.values():
        place.mkdir(parents=True)
    options = ",".join(f"{name}dir={places[name]}" for name in ("lower", "upper", "work"))
    # In a mount namespace of its own, so that nothing has to be unmounted.
    command = ["unshare", "-m", "mount", "-t", "overlay", "overlay", "-o", options, str(places["merged"])]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
