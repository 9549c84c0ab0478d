"""The clients of the matrix, as the folders below `clients` enter them, and their installation.

Knows: the form of `client.toml` (clients/README.md), where a toolchain is kept, how it is installed.
Must not know: what a client is asked to do.
"""

import hashlib
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "clients"

INSTALL_SECONDS = 1_200.0
"""Seconds for one toolchain: several times what the slowest takes cold beside the others."""

PROOFS = ("sts", "s3")
KINDS = ("program", "tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client: see clients/README.md for what each field means. `budget` is in seconds."""

    toolchain: str
    name: str
    version: str
    command: tuple[str, ...]
    proof: str
    budget: float
    kind: str = "program"
    steps: int = 2
    shows_bodies: bool = False
    finds_region: bool = False
    ipv6: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A folder of clients that are installed together, and where that is."""

    name: str
    folder: Path
    cache: Path
    install: tuple[str, ...]
    versions: tuple[str, ...]
    clients: tuple[Client, ...]


def toolchains(*, latest: bool = False, folder: Path = FOLDER) -> list[Toolchain]:
    """All that are entered.

    Raises:
        ValueError: an entry is not as clients/README.md says.
    """
    return [_read(path, latest=latest) for path in sorted(folder.glob("*/client.toml"))]


def _read(path: Path, *, latest: bool) -> Toolchain:
    try:
        entry = tomllib.loads(path.read_text(encoding="utf-8"))
        here, name = path.parent, entry["toolchain"]
        if name != here.name:
            raise ValueError(f"the toolchain is called {name!r}")  # noqa: TRY301  named with the file below
        cache = _caches() / (f"{name}-latest" if latest else f"{name}-{_key(here, entry.get('files', ()))}")
        clients = tuple(_client(name, here, cache, one) for one in entry["client"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    install = entry.get("latest", entry["install"]) if latest else entry["install"]
    return Toolchain(
        name=name,
        folder=here,
        cache=cache,
        install=tuple(install),
        versions=tuple(entry.get("versions", ())),
        clients=clients,
    )


def _client(toolchain: str, here: Path, cache: Path, entry: Mapping[str, object]) -> Client:
    def placed(text: str) -> str:
        return text.replace("{cache}", str(cache)).replace("{here}", str(here))

    values = dict(entry)
    command = values.pop("command")
    environment = values.pop("environment", {})
    if not isinstance(command, list) or not isinstance(environment, dict):
        raise TypeError("command is a list, environment a table")
    client = Client(
        toolchain=toolchain,
        command=tuple(placed(word) for word in command),
        environment={key: placed(value) for key, value in environment.items()},
        **values,  # type: ignore[arg-type]  # what is not a field's is a TypeError that names it
    )
    if client.proof not in PROOFS or client.kind not in KINDS or client.steps not in {1, 2}:
        raise ValueError(f"{client.name}: proof is one of {PROOFS}, kind one of {KINDS}, steps 1 or 2")
    return client


def _caches() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "metaproxy" / "conformance"


def _key(folder: Path, names: Sequence[str]) -> str:
    """Of what is installed: the folder's files, and the machine for which it is built."""
    digest = hashlib.sha256(f"{platform.machine()} {platform.freedesktop_os_release().get('VERSION_ID')}".encode())
    found = [folder / name for name in names] if names else folder.rglob("*")
    for path in sorted(path for path in found if path.is_file() and _counts(path)):
        digest.update(f"\0{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _counts(path: Path) -> bool:
    """What is said of clients in client.toml changes nothing of what is installed."""
    return path.name != "client.toml" and "__pycache__" not in path.parts


def install(chains: Sequence[Toolchain], *, latest: bool = False) -> dict[str, str]:
    """Install all beside each other; why those that could not be are missing, by name."""
    with ThreadPoolExecutor(max_workers=max(1, len(chains))) as pool:
        outcomes = pool.map(lambda chain: _install(chain, latest=latest), chains)
        return {chain.name: why for chain, why in zip(chains, outcomes, strict=True) if why}


def _install(chain: Toolchain, *, latest: bool) -> str:
    chain.cache.mkdir(parents=True, exist_ok=True)
    try:
        done = _run(chain, chain.install, latest=latest)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    said = (done.stdout + done.stderr).strip().splitlines()
    print(f"==== {chain.name}: its install ended with {done.returncode}", *said[-40:], sep="\n", file=sys.stderr)
    return said[-1] if said else f"its install ended with {done.returncode}"


def versions(chain: Toolchain) -> dict[str, str]:
    """What is really installed, by the names of the clients; what the chain does not say is what was pinned."""
    pinned = {client.name: client.version for client in chain.clients}
    if not chain.versions:
        return pinned
    said = _run(chain, chain.versions).stdout.splitlines()
    return pinned | dict(line.rsplit(maxsplit=1) for line in said if len(line.split()) > 1)


def _run(chain: Toolchain, command: Sequence[str], *, latest: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CACHE": str(chain.cache)} | ({"LATEST": "1"} if latest else {})
    return subprocess.run(
        command,
        cwd=chain.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
