"""The status as a page for a browser: no script, no image, nothing from elsewhere.

Knows: HTML and CSS.
Must not know: what any of it means; all words come from the view.

Each text is escaped where it enters, names stand in <bdi>, so that letters that run the other way stay in their cell,
and the policy allows the page its one style sheet, by its hash, and nothing else.
"""

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from metaproxy.statusview import SIGNS, Fact, Row, Tone, View

REFRESH = 5
"""Seconds between two looks that the page offers."""

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--text:#1b1f24;--soft:#57606a;--line:#d8dee4;
--good:#1a7f37;--warn:#8a5a00;--bad:#c1121f;--quiet:#57606a;--track:#e3e7ec;--link:#0757c2}
@media(prefers-color-scheme:dark){:root{--bg:#0e1116;--card:#161b22;--text:#e6edf3;--soft:#9aa5b1;--line:#2d343d;
--good:#4ac26b;--warn:#e0a83e;--bad:#ff7b72;--quiet:#9aa5b1;--track:#2d343d;--link:#6cb0ff}}
*{box-sizing:border-box}
body{margin:0;padding:1.25rem;background:var(--bg);color:var(--text);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:90rem;margin:0 auto}
header{display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:baseline;margin-bottom:1rem}
h1{font-size:1.35rem;margin:0;font-weight:650}
h2{font-size:1rem;margin:1.5rem 0 .5rem;font-weight:650}
nav{margin-left:auto}
a{color:var(--link)}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem}
.top{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,1fr);gap:1rem}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.2rem 1rem;margin:0}
dt{color:var(--soft)}
dd{margin:0}
ul{list-style:none;margin:0;padding:0}
.counts{display:flex;flex-wrap:wrap;gap:.35rem .6rem;margin:0 0 .6rem}
.pill{border:1px solid currentColor;border-radius:1rem;padding:.05rem .6rem;font-size:.85rem;white-space:nowrap}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}.quiet{color:var(--quiet)}
table{width:100%;border-collapse:collapse;table-layout:fixed;background:var(--card)}
.frame{border:1px solid var(--line);border-radius:.5rem;overflow:hidden;background:var(--card)}
th,td{text-align:left;vertical-align:top;padding:.55rem .7rem;border-bottom:1px solid var(--line);font-weight:400}
tbody:last-child>tr:last-child>*,tr:has(+.more)>*{border-bottom:0}
.more td{padding-top:0;color:var(--soft);font-size:.9rem}
thead th{color:var(--soft);font-size:.8rem;font-weight:600;background:var(--bg)}
thead th:nth-child(1){width:18%}thead th:nth-child(2){width:14%}thead th:nth-child(3){width:15%}
thead th:nth-child(4){width:16%}thead th:nth-child(5){width:12%}thead th:nth-child(6){width:13%}
.name{font-weight:600}
small{display:block;color:var(--soft);font-size:.85rem}
code{font:.85em ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.bar{display:block;width:100%;max-width:9rem;height:.5rem;margin:.35rem 0 .2rem}
.bar .track{fill:var(--track)}.bar .life{fill:currentColor}.bar .due{fill:var(--text)}
.none{color:var(--soft)}
footer{color:var(--soft);font-size:.85rem;margin-top:1rem}
@media(max-width:60rem){
body{padding:.75rem}
.top{grid-template-columns:minmax(0,1fr)}
dl{grid-template-columns:minmax(0,1fr);gap:0}
dd{margin-bottom:.4rem}
nav{margin-left:0}
.frame{border:0;background:none;border-radius:0}
table,tbody{display:block;background:none}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tbody{background:var(--card);border:1px solid var(--line);border-radius:.5rem;margin-bottom:.6rem;padding:.5rem .8rem}
tbody tr{display:block}
tbody tr>*,tbody tr:last-child>*{display:grid;grid-template-columns:6.5rem minmax(0,1fr);width:auto;border:0;
padding:.2rem 0}
tbody tr>*::before{content:attr(data-label);color:var(--soft);font-weight:400}
tbody tr>.empty{display:none}
}
"""

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy under which the page is whole."""

COLUMNS = ("Pod", "Address", "Role", "Decision", "Freshness", "Last failure", "Carrier")


def render(view: View, *, refresh: int = 0) -> str:
    """The page; `refresh` is the seconds after which the browser asks again, 0 for never."""
    node = escape(view.node)
    again = f'<meta http-equiv="refresh" content="{refresh}">\n' if refresh else ""
    toggle = (
        f'looks again every {refresh} s · <a href="/status">stop</a>'
        if refresh
        else f'<a href="/status">look again</a> · <a href="/status?refresh={REFRESH}">every {REFRESH} s</a>'
    )
    tone, word = (Tone.GOOD, "ready") if view.ready else (Tone.BAD, "not ready")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{again}<title>{escape(SIGNS[tone])} {node}, metaproxy</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>metaproxy on {_said(view.node)}</h1>
<span class="pill {tone}">{SIGNS[tone]} {word}</span>
<nav aria-label="Refresh">{toggle}</nav>
</header>
<div class="top">
<section class="card" aria-label="Agent">
<dl>
{_lines(_fact(fact) for fact in view.facts if fact.text)}
</dl>
</section>
<section class="card" aria-label="Readiness checks">
<ul>
{_lines(f"<li>{_marked(check.tone, check.label)}{_aside(check)}</li>" for check in view.checks)}
</ul>
</section>
</div>
<h2 id="pods">Pods of this node</h2>
{_pods(view)}
<footer>{escape(view.unlisted)}{" · " if view.unlisted else ""}<a href="/status.json">the same as JSON</a></footer>
</main>
</body>
</html>
"""


def _pods(view: View) -> str:
    if not view.rows:
        return '<p class="card">No pod of this node may ask for a role.</p>'
    counts = _lines(
        f'<li class="pill {fact.tone}">{SIGNS[fact.tone]} {escape(fact.text)} {escape(fact.label)}</li>'
        for fact in view.counts
    )
    head = "".join(f'<th scope="col" role="columnheader">{column}</th>' for column in COLUMNS)
    # The roles are said again because a phone's layout, which takes the table apart, would take them away.
    return f"""<ul class="counts" aria-label="Pods by condition">
{counts}
</ul>
<div class="frame">
<table role="table" aria-labelledby="pods">
<thead role="rowgroup"><tr role="row">{head}</tr></thead>
{_lines(map(_row, view.rows))}
</table>
</div>"""


def _row(row: Row) -> str:
    cells = (
        "".join(f"<div><code>{escape(address)}</code></div>" for address in row.addresses),
        _said(row.role),
        _marked(row.tone, _decision(row)),
        _freshness(row),
        _failure(row),
        "".join(_carrier(parts) for parts in row.carriers if parts),
    )
    name = f'<span class="name">{_said(row.name)}</span><small>{_said(row.namespace)}</small>'
    told = "".join(
        f'<td role="cell" data-label="{column}"{"" if cell else " class=empty"}><div>{cell or _NOTHING}</div></td>'
        for column, cell in zip(COLUMNS[1:], cells, strict=True)
    )
    return (
        f'<tbody role="rowgroup"><tr role="row"><th scope="row" role="rowheader" data-label="{COLUMNS[0]}">'
        f"<div>{name}</div></th>{told}</tr>{_more(row)}</tbody>"
    )


_NOTHING = '<span class="none">–</span>'  # noqa: RUF001  a dash that is one


def _more(row: Row) -> str:
    """What is said of a refusal or failure: a row of its own, because it is as long as all others together."""
    said = "".join(f"<div>{_said(text)}</div>" for text in (row.why, row.trouble) if text)
    if not said or row.tone is Tone.QUIET:
        return ""
    cell = f'<td role="cell" colspan="{len(COLUMNS)}" data-label="Why"><div>{said}</div></td>'
    return f'<tr role="row" class="more">{cell}</tr>'


def _decision(row: Row) -> str:
    return f"{row.decision}, {row.condition}" if row.decision == "permitted" else row.decision or row.condition


def _carrier(parts: Iterable[str]) -> str:
    first, *rest = parts
    return f"<div>{_said(first)}{''.join(f'<small>{_said(part)}</small>' for part in rest)}</div>"


def _freshness(row: Row) -> str:
    if row.life is None:
        return f"<small>{escape(row.left)}</small>" if row.left else ""
    percent = round(100 * row.life)
    due = "" if row.renewal is None else f'<rect class="due" x="{100 * row.renewal:.0f}" width="1.5" height="8"/>'
    return (
        f'<svg class="bar {row.tone}" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        f'aria-label="{percent} percent of its life left"><rect class="track" width="100" height="8"/>'
        f'<rect class="life" width="{percent}" height="8"/>{due}</svg>'
        f"{percent} %, {escape(row.left)}<small>renewal {escape(row.renews)}</small>"
    )


def _failure(row: Row) -> str:
    if not row.failure:
        return ""
    tone = Tone.BAD if row.tone is Tone.BAD else Tone.WARN
    return f"{_marked(tone, row.failure)}<small>{escape(row.failed)}</small>"


def _fact(fact: Fact) -> str:
    mark = "" if fact.tone is Tone.QUIET else f'<span class="{fact.tone}">{SIGNS[fact.tone]}</span> '
    return f"<dt>{escape(fact.label)}</dt><dd>{mark}{_said(fact.text)}</dd>"


def _marked(tone: Tone, text: str) -> str:
    return f'<span class="{tone}">{SIGNS[tone]}&nbsp;{_said(text)}</span>'


def _aside(check: Fact) -> str:
    return "" if check.tone is Tone.GOOD else f"<small>{_said(check.text)}</small>"


def _said(text: str) -> str:
    """A text of the view; it reads from the left, also when it begins with letters of a script that does not."""
    return f'<bdi dir="ltr">{escape(text)}</bdi>' if text else ""


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)
