"""Builds the programs of the chart's tests, once for each version: with Go helm, kubectl and Prometheus' expressions.

The AWS CLI is installed with pip, in an environment of its own.

    python -m tests.chart.build           builds what is not there yet, and prints where it is
    python -m tests.chart.build --check   exit 0 when the chart's tests can run here, else 1 and the reason

Knows: their versions, the Go tool, pip, the user's cache folder.
Must not know: what the programs do.

Cold it takes some 5 minutes on two cores.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HELM = "helm.sh/helm/v3/cmd/helm@v3.19.5"
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
OPERATOR_SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
KINDS = ("podmonitors", "servicemonitors", "prometheusrules")
PROMQL = Path(__file__).parent / "promql"
AWS = Path(__file__).parents[1] / "conformance" / "clients" / "python" / "requirements-boto.txt"
"""The version with which the clients' matrix is made, by hashes."""

KUBECTL = Path(__file__).parent / "kubectl"
"""Kubernetes' client, and beside it what a kubelet answers to it."""

_SECONDS = 1_800.0
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}


class CannotBuildError(Exception):
    """Something is not there and cannot be built here; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the tests need: helm, kubectl, the AWS CLI, Prometheus' expressions, the operator's definitions.

    `kubectl` is two programs: see its main.go.
    """

    helm: Path
    kubectl: Path
    aws: Path
    promql: Path
    definitions: tuple[Path, ...]


def ensure() -> Tools:
    """All of them; builds what is not cached. Raises CannotBuildError."""
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        return Tools(
            helm=_helm(folder),
            kubectl=_kubectl(folder),
            aws=_aws(folder),
            promql=_promql(folder),
            definitions=_definitions(folder),
        )


def check() -> None:
    """Raise CannotBuildError when they cannot be had. Compiles nothing."""
    _go("version")


def _helm(folder: Path) -> Path:
    made = folder / f"helm-{HELM.rpartition('@')[2]}"
    if not made.exists():
        with _building(folder, "helm") as aside:
            _go("install", "-trimpath", HELM, GOBIN=str(aside), GOFLAGS="")
            (aside / "helm").replace(made)
    return made


def _kubectl(folder: Path) -> Path:
    version = re.search(r"^\s*k8s\.io/kubectl v0(\S+)$", (KUBECTL / "go.mod").read_text(), re.MULTILINE)
    assert version, "go.mod names the library that kubectl is made of"
    # As the released one: its version is that of the API server, not that of its library.
    link = f"-s -w -X k8s.io/component-base/version.gitVersion=v1{version[1]}"
    return _module(folder, KUBECTL, "kubectl", "-ldflags", link)


def _aws(folder: Path) -> Path:
    wanted = AWS.read_bytes()
    made = folder / f"aws-{hashlib.sha256(wanted + sys.version.encode()).hexdigest()[:16]}"
    done = made / "installed"
    if not done.exists():
        print("installing for the chart's tests, once: the AWS CLI", file=sys.stderr, flush=True)
        # In its place at once: an environment cannot be moved.
        venv.create(made, clear=True, with_pip=True)
        pip = [str(made / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--only-binary", ":all:", "--require-hashes", "--no-deps", "-r", str(AWS)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if ended.returncode:
            raise CannotBuildError(f"the AWS CLI cannot be installed: {ended.stderr.strip()[-2_000:]}")
        done.touch()
    return made / "bin" / "aws"


def _promql(folder: Path) -> Path:
    return _module(folder, PROMQL, "promql")


def _module(folder: Path, source: Path, name: str, *flags: str) -> Path:
    """The program of a module of ours, by what it is made of."""
    files = [source / "go.mod", source / "go.sum", *sorted(source.glob("*.go"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    made = folder / f"{name}-{digest.hexdigest()[:16]}"
    if not made.exists():
        with _building(folder, name) as aside:
            _go("build", "-trimpath", "-buildvcs=false", *flags, "-o", str(aside / name), ".", cwd=source)
            (aside / name).replace(made)
    return made


def _definitions(folder: Path) -> tuple[Path, ...]:
    made = folder / f"operator-{OPERATOR.rpartition('@')[2]}"
    if not made.exists():
        with _building(folder, "the operator's kinds") as aside:
            told = json.loads(_go("mod", "download", "-json", OPERATOR))
            if told["Sum"] != OPERATOR_SUM:
                raise CannotBuildError(f"{OPERATOR} is not what it was: {told['Sum']}")
            source = Path(told["Dir"]) / "example" / "prometheus-operator-crd"
            kinds = aside / "kinds"
            kinds.mkdir()
            for kind in KINDS:
                shutil.copyfile(source / f"monitoring.coreos.com_{kind}.yaml", kinds / f"{kind}.yaml")
            kinds.replace(made)
    return tuple(made / f"{kind}.yaml" for kind in KINDS)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "metaproxy" / "chart"


@contextmanager
def _building(folder: Path, what: str) -> Iterator[Path]:
    """A folder from which what is whole is moved to its place."""
    print(f"building for the chart's tests, once: {what}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as aside:
        yield Path(aside)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _go(*arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """Run the Go tool, outside of any module unless told where; its output. Raises CannotBuildError."""
    go = shutil.which("go")
    if go is None:
        raise CannotBuildError("Go is missing: helm is built with it")
    try:
        done = subprocess.run(
            [go, *arguments],
            env={**os.environ, **_ENVIRONMENT, **environment},
            cwd=cwd or tempfile.gettempdir(),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotBuildError(f"go {arguments[0]} did not end within {_SECONDS:.0f} s") from error
    if done.returncode:
        raise CannotBuildError(f"go {' '.join(arguments)}: {done.stderr.strip()[-2_000:]}")
    return done.stdout


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chart.build", description="Build helm for the tests.")
    parser.add_argument("--check", action="store_true", help="build nothing; say whether it could be built")
    try:
        if parser.parse_args().check:
            check()
        else:
            tools = ensure()
            print(tools.helm, tools.kubectl, tools.aws, tools.promql, *tools.definitions, sep="\n")
    except CannotBuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
