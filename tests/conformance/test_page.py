"""What is published of the matrix: a client is counted when each of its cells is there and as it should be."""

from dataclasses import replace
from pathlib import Path

import pytest

from scripts import clients_page
from tests.conformance import registry, results
from tests.conformance.redirected import routes
from tests.conformance.registry import Client
from tests.conformance.results import Got, Result
from tests.conformance.situations import SITUATIONS

CLIENTS = [client for chain in registry.toolchains() for client in chain.clients]
BOTH = f"2 of 2 clients do in {len(clients_page.COURSES)} situations what they should, in"


@pytest.fixture
def entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    """Two clients, one of which also runs over IPv6."""
    (tmp_path / "x").mkdir()
    clients = (
        f"[[client]]\nname = '{name}'\nversion = '1'\ncommand = ['c']\nproof = 's3'\n"
        f"refusal = 'r'\nbudget = 9\nipv6 = {ipv6}\n"
        for name, ipv6 in (("a", "true"), ("b", "false"))
    )
    text = f"toolchain = 'x'\ninstall = ['true']\nversions = ['true']\n{''.join(clients)}"
    (tmp_path / "x" / "client.toml").write_text(text)
    (tmp_path / "excused.toml").write_text("")
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    monkeypatch.setattr(registry, "EXCUSED", tmp_path / "excused.toml")
    (chain,) = registry.toolchains()
    return list(chain.clients)


def good(clients: list[Client]) -> list[Result]:
    """A cell of each client, situation and mode of tokens, as all are when all is well."""
    return [
        Result(
            client=client.name,
            version="1",
            situation=name,
            tokens=tokens,
            got=Got.CREDENTIALS if expected.reason is None else Got.REFUSED,
            again=Got.CREDENTIALS if expected.again else Got.NOTHING,
            requests=3,
            again_requests=3,
            token=results.SHOWN,
            at=f"list {results.STATUS[expected.reason]}" if expected.reason else "",
        )
        for client in clients
        for name in (*SITUATIONS, *routes(client))
        for expected in [clients_page.COURSES[name].expected]
        for tokens in ("optional", "required")
    ]


def test_all_is_well(entered: list[Client]) -> None:
    """All are counted, and all cells."""
    found = good(entered)
    assert clients_page.line(found) == f"{BOTH} {len(found)} cells."


@pytest.mark.parametrize(
    "change",
    [
        {"got": Got.REFUSED},
        {"got": Got.ABORTED},
        {"again": Got.HUNG},
        {"version": "2"},
        {"requests": 99},
        {"seconds": 99.0},
    ],
)
def test_one_cell_is_not_well(entered: list[Client], change: dict[str, object]) -> None:
    """Its client is named, and not counted."""
    first, *others = good(entered)
    line = clients_page.line([replace(first, **change), *others])  # type: ignore[arg-type]
    assert line.startswith("1 of 2 clients do")
    assert line.endswith("cells. Not as they should: a.")


@pytest.mark.parametrize("number", [0, -1])
def test_a_cell_is_not_there(entered: list[Client], number: int) -> None:
    """As little."""
    found = good(entered)
    name = found.pop(number).client
    assert clients_page.line(found).endswith(f"cells. Not as they should: {name}.")


def test_a_client_is_not_there(entered: list[Client], tmp_path: Path) -> None:
    """It was not tried, and the page says so too, and who may be."""
    gone = Result(client="b", version="1", situation="", tokens="", got=Got.MISSING)
    found = [*good(entered[:1]), gone]
    assert clients_page.line(found).startswith("1 of 2 clients do")
    assert clients_page.line(found).endswith("cells. Not tried: b.")
    results.write(found, None, tmp_path / "results.json")
    page = clients_page.page(tmp_path / "results.json")
    assert "| b | 1 | **not installed** |" in page
    assert "unless it is excused by name: none is." in page
    registry.EXCUSED.write_text("b = 'no such machine'")
    assert "| b | no such machine |" in clients_page.page(tmp_path / "results.json")


def test_ten_minutes() -> None:
    """What the committed run took of its cores leaves room in them, and so does the cell that rests longest.

    What a clock says of a run is the machine's load too; it is told on the page, and no bound of a test.
    """
    run = results.read_run()
    assert run is not None
    assert run.cells == len(results.read())
    assert run.cpu_seconds / run.cores < results.TEN_MINUTES
    assert max(one.seconds(client.name) for one in SITUATIONS.values() for client in CLIENTS) < results.TEN_MINUTES
