"""The status on a terminal, or as plain text for whatever reads a pipe.

Knows: rich, and how wide a bar is.
Must not know: what any of it means; all words come from the view.

Everything is put in as Text, never as rich's own markup, which pods' owners could write.
"""

from collections.abc import Callable, Iterator
from io import StringIO
from time import sleep

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from metaproxy.statusview import SIGNS, Fact, Row, Tone, View

STYLES = {Tone.BAD: "bold red", Tone.WARN: "yellow", Tone.GOOD: "green", Tone.QUIET: "dim"}

BAR = 10
"""Characters of a bar."""

EVERY = 2.0
"""Seconds between two looks of one who watches."""

WIDEST = 100_000
"""Columns of plain text: nothing is folded, so that what reads it finds one pod on each line."""


COLUMNS = ("Pod", "Address", "Role", "Decision", "Freshness", "Last failure", "Carrier")
WHOLE = frozenset({"Address", "Decision", "Freshness"})
"""What is short, and hard to read when it is broken."""

NEEDS = {"Carrier": 120, "Address": 100}
"""How wide a terminal must be for what is left out first, so that the rest can be read."""


def show(view: View) -> None:
    """Print it: as a table on a terminal, else as plain text."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(_whole(view, width=console.width))
    else:
        print(text(view), end="")


def watch(look: Callable[[], View | str]) -> None:
    """Show it again and again until Ctrl-C; a text is what to say when there is nothing to show."""
    console = Console(highlight=False)
    try:
        with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                found = look()
                shown = (
                    Text(found, style=STYLES[Tone.BAD])
                    if isinstance(found, str)
                    else _whole(found, width=console.width)
                )
                live.update(shown, refresh=True)
                sleep(EVERY)
    except KeyboardInterrupt:
        return


def text(view: View) -> str:
    """It as plain text: no colours, no lines, no folding."""
    aside = StringIO()
    Console(file=aside, width=WIDEST, color_system=None, highlight=False, force_terminal=False).print(
        _whole(view, width=WIDEST, plain=True)
    )
    return "".join(f"{line.rstrip()}\n" for line in aside.getvalue().splitlines())


def _whole(view: View, *, width: int, plain: bool = False) -> RenderableType:
    tone, word = (Tone.GOOD, "ready") if view.ready else (Tone.BAD, "not ready")
    head = Text.assemble(("metaproxy", "bold"), " on ", (view.node, "bold"), "  ", _marked(tone, word))
    facts = Table.grid(padding=(0, 2))
    for fact in (*view.facts, *view.checks):
        if fact.text and not (fact in view.checks and fact.tone is Tone.GOOD):
            facts.add_row(Text(fact.label, style="dim"), _fact(fact))
    ready = ", ".join(check.label for check in view.checks if check.tone is Tone.GOOD)
    facts.add_row(Text("Checks passed", style="dim"), Text(ready or "none"))
    return Group(head, facts, Text(), *_pods(view, width=width, plain=plain))


def _pods(view: View, *, width: int, plain: bool) -> Iterator[RenderableType]:
    if not view.rows:
        yield Text("No pod of this node may ask for a role.")
    else:
        table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        shown = [column for column in COLUMNS if width >= NEEDS.get(column, 0)]
        for column in shown:
            table.add_column(column, overflow="fold", no_wrap=column in WHOLE)
        for row in view.rows:
            cells = dict(zip(COLUMNS, _cells(row, plain=plain), strict=True))
            table.add_row(*(cells[column] for column in shown))
        yield table
    counted = [f"{fact.text} {fact.label}" for fact in view.counts]
    if closing := "; ".join([*counted, *([view.unlisted] if view.unlisted else [])]):
        yield Text(closing, style="dim")
    for row in view.rows:
        for said in ("" if row.tone is Tone.QUIET else row.why, row.trouble):
            if said:
                yield Text.assemble((SIGNS[row.tone], STYLES[row.tone]), f" {row.namespace}/{row.name}: {said}")


def _cells(row: Row, *, plain: bool) -> Iterator[Text]:
    between = ", " if plain else "\n"
    yield Text(f"{row.namespace}/{row.name}")
    yield Text(between.join(row.addresses))
    yield Text(row.role)
    yield _marked(row.tone, row.condition if row.decision == "permitted" else row.decision)
    yield _freshness(row, plain=plain)
    yield Text(between.join(part for part in (row.failure, row.failed) if part))
    yield Text(between.join((" " if plain else "\n").join(parts) for parts in row.carriers if parts))


def _freshness(row: Row, *, plain: bool) -> Text:
    if row.life is None:
        return Text(row.left)
    percent, when = f"{round(100 * row.life)} %", f"renewal {row.renews}"
    if plain:
        return Text(f"{percent}, {row.left}, {when}")
    full = round(BAR * row.life)
    bar = ("━" * full, STYLES[row.tone]), ("─" * (BAR - full), "dim")
    return Text.assemble(*bar, f" {percent}, {row.left}\n{when}")


def _fact(fact: Fact) -> Text:
    return Text(fact.text) if fact.tone is Tone.QUIET else _marked(fact.tone, fact.text)


def _marked(tone: Tone, words: str) -> Text:
    return Text(f"{SIGNS[tone]} {words}", style=STYLES[tone])
