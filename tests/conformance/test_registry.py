"""Who is entered, who is installed, and what is said of those who are not: nobody is left out without a word."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import registry
from tests.conformance.__main__ import main
from tests.conformance.registry import Toolchain

ENTERED = "toolchain = 'x'\ninstall = ['true']\nversions = ['true']\n[[client]]\n"
BARE = "toolchain = 'x'\ninstall = ['true']\nversions = ['true']\nclient = []"
WHOLE = "name = 'c'\nversion = '1'\ncommand = ['c']\nrefusal = 'r'\nbudget = 1\n"
NEEDED = {
    *("boto3", "aiobotocore", "AWS CLI v1", "AWS CLI v2", "awscrt", "C++ (pyarrow)", "object_store (obstore)", "Rust"),
    *("Go v1", "Go v2", "minio-go", "Java v1", "Java v2", "JavaScript v2", "JavaScript v3", "Ruby"),
    *("s5cmd", "rclone", "s3cmd", "restic"),
}
IPV6 = {"boto3", "Go v2", "Java v2", "JavaScript v3", "Rust"}
Enter = Callable[..., Toolchain]


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Makes the one toolchain that there is, with two clients, and these shell commands."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "clients" / "x"
    folder.mkdir(parents=True)

    def enter(*, install: str = "true", versions: str = "echo a 1; echo b c 2") -> Toolchain:
        clients = "".join(
            f"[[client]]\nname = '{name}'\nversion = '1'\ncommand = ['c']\nproof = 's3'\nrefusal = 'r'\nbudget = 1\n"
            for name in ("a", "b c")
        )
        commands = f"install = ['sh', '-c', '''{install}''']\nversions = ['sh', '-c', '''{versions}''']\n"
        (folder / "client.toml").write_text(f"toolchain = 'x'\n{commands}{clients}")
        (one,) = registry.toolchains(folder=folder.parent)
        return one

    return enter


def test_whom_the_matrix_is_for() -> None:
    """All of them are entered, each with a proof; these also over IPv6."""
    clients = [client for chain in registry.toolchains() for client in chain.clients]
    assert len(clients) == len(NEEDED)
    assert {client.name for client in clients} == NEEDED
    assert {client.name for client in clients if client.ipv6} == IPV6
    assert all(client.proof in registry.PROOFS for client in clients)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "toolchain = 'x'",
        "toolchain = 'other'\ninstall = ['true']\nversions = ['true']\nclient = []",
        f"{ENTERED}name = 'c'",
        f"{ENTERED}{WHOLE}proof = 'x'",
        f"{ENTERED}{WHOLE}proof = 's3'".replace("'r'", "'('"),
        f"{ENTERED}{WHOLE}proof = 's3'\nno_region = '('",
        f"{ENTERED}{WHOLE}proof = 's3'\nodd = 1",
        f"{ENTERED}{WHOLE}proof = 's3'".replace("budget = 1", "budget = 11"),
    ],
)
def test_a_wrong_entry(text: str, tmp_path: Path) -> None:
    """Is refused with the name of its file."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "client.toml").write_text(text)
    with pytest.raises(ValueError, match=r"client\.toml"):
        registry.toolchains(folder=tmp_path)


@pytest.mark.parametrize(
    ("commands", "missing"),
    [
        ({}, {}),
        ({"install": "echo much; echo no such thing >&2; exit 1"}, dict.fromkeys(["a", "b c"], "no such thing")),
        ({"install": "exit 3"}, dict.fromkeys(["a", "b c"], "its install ended with 3")),
        ({"versions": "echo a 1; echo b c 2; echo broken >&2; exit 1"}, dict.fromkeys(["a", "b c"], "broken")),
        ({"versions": "echo a 1"}, {"b c": "its toolchain does not tell its version"}),
    ],
)
def test_who_is_missing(enter: Enter, commands: dict[str, str], missing: dict[str, str]) -> None:
    """Who could not be installed, and whose version nobody tells; each by name, with the last that was said."""
    installed = registry.install([enter(**commands)])
    assert installed.missing == missing
    assert installed.versions == {name: version for name, version in (("a", "1"), ("b c", "2")) if name not in missing}


def test_an_install_that_cannot_be_started(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told too."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert set(registry.install([enter()]).missing) == {"a", "b c"}


def test_what_is_not_the_newest(enter: Enter) -> None:
    """An install says of whom it kept the pinned version; what else it prints is its own affair."""
    chain = enter(install="echo KEPT: b c: it: is kept; echo KEPT: nobody: x; echo so KEPT: a: y")
    assert registry.install([chain], latest=True).kept == {"b c": "it: is kept"}


@pytest.mark.parametrize(
    ("text", "refused"),
    [("'b c' = 'no apt'", False), ("", False), ("nobody = 'no apt'", True), ("a = ' '", True), ("a = 1", True)],
)
def test_excuses(enter: Enter, tmp_path: Path, text: str, refused: bool) -> None:
    """Are for clients that there are, and have a reason."""
    file = tmp_path / "excused.toml"
    file.write_text(text)
    if refused:
        with pytest.raises(ValueError, match=r"excused\.toml"):
            registry.excuses([enter()], file)
    else:
        assert registry.excuses([enter()], file) == ({"b c": "no apt"} if text else {})


@pytest.mark.parametrize(
    ("excused", "code", "line"),
    [
        ("", 1, "WRONG: b c, not installed, and not excused: gone"),
        ("'b c' = 'no apt'", 0, "MISSING: b c: gone (excused: no apt)"),
    ],
)
def test_who_is_missing_and_not_excused(
    enter: Enter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    excused: str,
    code: int,
    line: str,
) -> None:
    """Makes the run fail, whatever machine it is on; of whom is excused it is said."""
    monkeypatch.delenv("CI", raising=False)
    chain = enter(install="echo gone; exit 1")
    (tmp_path / "excused.toml").write_text(excused)
    monkeypatch.setattr(registry, "FOLDER", chain.folder.parent)
    monkeypatch.setattr(registry, "EXCUSED", tmp_path / "excused.toml")
    assert main(["--install", "--client", "b c"]) == code
    said = capsys.readouterr().out.splitlines()
    assert line in said
    assert said[-1] == "==== 0 of 1 clients installed"


def test_somebody_whom_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    """Is an error before anything is installed, not a run of nobody that is well."""
    with pytest.raises(SystemExit) as ended:
        main(["--client", "Nobody"])
    assert ended.value.code == 2
    assert "Nobody" in capsys.readouterr().err


def test_a_new_pin_is_a_new_folder(tmp_path: Path) -> None:
    """What is installed lies in a folder named by what it is made of, not by what is said of it."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "client.toml").write_text(BARE)
    (tmp_path / "x" / "pins").write_text("1")
    (first,) = registry.toolchains(folder=tmp_path)
    (tmp_path / "x" / "client.toml").write_text(f"{BARE}\n# said")
    assert registry.toolchains(folder=tmp_path)[0].cache == first.cache
    (tmp_path / "x" / "pins").write_text("2")
    assert registry.toolchains(folder=tmp_path)[0].cache != first.cache
    assert registry.toolchains(folder=tmp_path, latest=True)[0].cache.name == "x-latest"
