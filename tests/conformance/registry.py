"""The clients of the matrix, as the folders below `clients` enter them, their installation, and who is excused from it.

Knows: the form of `client.toml` (clients/README.md), where a toolchain is kept, how it is installed.
Must not know: what a client is asked to do.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "clients"
EXCUSED = Path(__file__).parent / "excused.toml"

INSTALL_SECONDS = 2_400.0
"""Seconds for one toolchain: several times what the slowest takes cold beside the others."""

MOST_BUDGET = 10.0
"""Seconds for a call that may be refused: none takes three, and one that asks again without end takes more."""

_KEPT = re.compile(r"^KEPT: (.+?): (.+)$", re.MULTILINE)
"""How an install says that of a client it could not have the newest, and why."""

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
    refusal: str
    budget: float
    no_region: str = ""
    kind: str = "program"
    leaves: bool = False
    shows_bodies: tuple[int, ...] = ()
    requests: int = 3
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What has come of an installation, by the names of clients.

    Versions are of those that are there; the others are missing for a reason. Some are kept at the pinned version for a
    reason though the newest was asked for. `seconds`: what each toolchain took, by the toolchain's name.
    """

    versions: Mapping[str, str]
    missing: Mapping[str, str]
    kept: Mapping[str, str]
    seconds: Mapping[str, float]


def toolchains(*, latest: bool = False, folder: Path | None = None) -> list[Toolchain]:
    """All that are entered.

    Raises:
        ValueError: an entry is not as clients/README.md says.
    """
    return [_read(path, latest=latest) for path in sorted((folder or FOLDER).glob("*/client.toml"))]


def _read(path: Path, *, latest: bool) -> Toolchain:
    try:
        entry = tomllib.loads(path.read_text(encoding="utf-8"))
        here, name = path.parent, entry["toolchain"]
        if name != here.name:
            raise ValueError(f"the toolchain is called {name!r}")  # noqa: TRY301  named with the file below
        cache = _caches() / (f"{name}-latest" if latest else f"{name}-{_key(here, entry.get('files', ()))}")
        clients = tuple(_client(name, here, cache, one) for one in entry["client"])
    except (KeyError, TypeError, ValueError, re.error) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    return Toolchain(
        name=name,
        folder=here,
        cache=cache,
        install=tuple(entry["install"]),
        versions=tuple(entry["versions"]),
        clients=clients,
    )


def _client(toolchain: str, here: Path, cache: Path, entry: Mapping[str, object]) -> Client:
    def placed(text: str) -> str:
        return text.replace("{cache}", str(cache)).replace("{here}", str(here))

    values = dict(entry)
    command = values.pop("command")
    environment, bodies = values.pop("environment", {}), values.pop("shows_bodies", [])
    if not isinstance(command, list) or not isinstance(environment, dict) or not isinstance(bodies, list):
        raise TypeError("command and shows_bodies are lists, environment a table")
    client = Client(
        toolchain=toolchain,
        command=tuple(placed(word) for word in command),
        environment={key: placed(value) for key, value in environment.items()},
        shows_bodies=tuple(bodies),
        **values,  # type: ignore[arg-type]  # what is not a field's is a TypeError that names it
    )
    re.compile(client.refusal)
    re.compile(client.no_region)
    if client.budget > MOST_BUDGET:
        raise ValueError(f"{client.name}: its budget is above {MOST_BUDGET:.0f} s")
    if client.proof not in PROOFS or client.kind not in KINDS:
        raise ValueError(f"{client.name}: proof is one of {PROOFS}, kind one of {KINDS}")
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


def excuses(chains: Sequence[Toolchain], file: Path | None = None) -> dict[str, str]:
    """Who may be missing, and why, by the names of clients.

    Raises:
        ValueError: the file names a client that is not entered, or gives no reason.
    """
    file = file or EXCUSED
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    known = {client.name for chain in chains for client in chain.clients}
    for name, why in found.items():
        if name not in known or not isinstance(why, str) or not why.strip():
            raise ValueError(f"{file}: {name!r} is no client that is entered, or has no reason")
    return found


def install(chains: Sequence[Toolchain], *, latest: bool = False) -> Installed:
    """Install all beside each other, and look what has come of it."""
    with ThreadPoolExecutor(max_workers=max(1, len(chains))) as pool:
        outcomes = list(pool.map(lambda chain: _install(chain, latest=latest), chains))
    return Installed(
        versions={name: version for outcome in outcomes for name, version in outcome.versions.items()},
        missing={name: why for outcome in outcomes for name, why in outcome.missing.items()},
        kept={name: why for outcome in outcomes for name, why in outcome.kept.items()},
        seconds={name: seconds for outcome in outcomes for name, seconds in outcome.seconds.items()},
    )


def _install(chain: Toolchain, *, latest: bool) -> Installed:
    began = time.monotonic()
    chain.cache.mkdir(parents=True, exist_ok=True)
    installing, why = _done(chain, chain.install, "install", latest=latest)
    telling = ""
    if not why:
        telling, why = _done(chain, chain.versions, "versions", latest=latest)
    names = [client.name for client in chain.clients]
    told = dict(line.rsplit(maxsplit=1) for line in telling.splitlines() if len(line.split()) > 1)
    versions = {name: told[name] for name in names if name in told}
    return Installed(
        versions=versions,
        missing={name: why or "its toolchain does not tell its version" for name in names if name not in versions},
        kept={name: why for name, why in _KEPT.findall(installing) if name in versions},
        seconds={chain.name: time.monotonic() - began},
    )


def _done(chain: Toolchain, command: Sequence[str], what: str, *, latest: bool) -> tuple[str, str]:
    """What a command of a toolchain said, and why it is of no use; empty when it is."""
    try:
        done = _run(chain, command, latest=latest)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode == 0:
        return done.stdout, ""
    said = (done.stdout + done.stderr).strip().splitlines()
    print(f"==== {chain.name}: its {what} ended with {done.returncode}", *said[-40:], sep="\n", file=sys.stderr)
    return "", said[-1] if said else f"its {what} ended with {done.returncode}"


def _run(chain: Toolchain, command: Sequence[str], *, latest: bool) -> subprocess.CompletedProcess[str]:
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
