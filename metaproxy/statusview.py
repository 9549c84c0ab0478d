"""The status document in words for a person, whether on a page or a terminal.

Knows: what each part of the document is called, how good or bad it is, and in which order it is told.
Must not know: HTML, terminals.

Total: the document comes from an agent of any version, and parts of it were written by pods' owners. What is missing is
blank, what is of another type is left out, and every character of it is one that only shows.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from metaproxy.status import Condition
from metaproxy.wording import duration, printable, shortened

LONGEST = 640
"""Characters of one text: a name has 253, a role's ARN 609, a message fewer."""

LOW = 0.3
"""The share of its life below which a session is short: renewal begins at half, so something has failed for long."""


class Tone(StrEnum):
    """How good a thing is; the order is that of urgency."""

    BAD = "bad"
    WARN = "warn"
    GOOD = "good"
    QUIET = "quiet"


SIGNS = {Tone.BAD: "✗", Tone.WARN: "!", Tone.GOOD: "✓", Tone.QUIET: "–"}  # noqa: RUF001  a dash that is one
"""Colour is never the only sign."""

TONES: Mapping[str, Tone] = {
    Condition.SERVED: Tone.GOOD,
    Condition.STALE: Tone.WARN,
    Condition.FETCHING: Tone.WARN,
    Condition.FAILING: Tone.BAD,
    Condition.WITHDRAWN: Tone.BAD,
    Condition.WAITING: Tone.WARN,
    Condition.REFUSED: Tone.BAD,
    Condition.NO_ROLE: Tone.QUIET,
    Condition.HOST_NETWORK: Tone.WARN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing about the agent."""

    label: str
    text: str
    tone: Tone = Tone.QUIET


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A pod. `life` and `renewal` are shares of a session's life: what is left, and when in it renewal is due."""

    namespace: str
    name: str
    tone: Tone
    condition: str
    addresses: tuple[str, ...] = ()
    role: str = ""
    arn: str = ""
    decision: str = ""
    why: str = ""
    life: float | None = None
    renewal: float | None = None
    left: str = ""
    renews: str = ""
    failure: str = ""
    failed: str = ""
    trouble: str = ""
    carriers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The whole; `counts` tells how many pods are in which condition, `unlisted` which are not told of."""

    node: str
    ready: bool
    facts: tuple[Fact, ...]
    checks: tuple[Fact, ...]
    rows: tuple[Row, ...]
    counts: tuple[Fact, ...]
    unlisted: str


def view(document: object) -> View:
    """The document in words; see the module."""
    whole = _mapping(document)
    agent = _mapping(whole.get("agent"))
    ready = agent.get("ready") is True
    base = _text(agent, "base_arn")
    rows = sorted(
        (_row(_mapping(pod), base) for pod in _list(whole.get("pods"))),
        key=lambda row: (list(Tone).index(row.tone), row.namespace, row.name),
    )
    counted = Counter((row.tone, row.condition) for row in rows)
    unlisted = _whole(whole, "unlisted_pods")
    return View(
        node=_text(agent, "node") or "this node",
        ready=ready,
        facts=(
            Fact(label="Agent", text=f"metaproxy {_text(agent, 'version')}, {_lasting(agent, 'uptime_seconds')} up"),
            Fact(label="Identity", text=_text(agent, "identity")),
            Fact(label="Base ARN", text=base or "not known yet", tone=Tone.QUIET if base else Tone.WARN),
            _budget(_mapping(whole.get("sts"))),
            *_sources(whole, agent),
            Fact(label="Witness", text=_text(agent, "witness")),
        ),
        checks=tuple(_check(_mapping(check)) for check in _list(whole.get("checks"))),
        rows=tuple(rows),
        counts=tuple(
            Fact(label=condition, text=str(number), tone=tone) for (tone, condition), number in counted.items()
        ),
        unlisted=f"{unlisted} more without a role of their own here (finished, or on the node's network)"
        if unlisted
        else "",
    )


def _check(check: Mapping[str, Any]) -> Fact:
    well = check.get("ok") is True
    return Fact(
        label=_text(check, "name"),
        text="ok" if well else _text(check, "message") or "not ok",
        tone=Tone.GOOD if well else Tone.BAD,
    )


def _budget(sts: Mapping[str, Any]) -> Fact:
    tokens, burst, queued = _whole(sts, "tokens"), _whole(sts, "burst"), _whole(sts, "queued")
    text = (
        f"{tokens} of {burst} calls at once ({_amount(sts, 'rate') or 0:g} more each second), "
        f"{_whole(sts, 'flights')} of {_whole(sts, 'concurrency')} under way, {queued} waiting"
    )
    return Fact(label="STS budget", text=text, tone=Tone.WARN if queued else Tone.QUIET)


def _sources(whole: Mapping[str, Any], agent: Mapping[str, Any]) -> list[Fact]:
    watches = [_mapping(watch) for watch in _list(whole.get("watches"))]
    return [_watch(watch) for watch in watches] or [Fact(label="Source", text=_text(agent, "source"))]


def _watch(watch: Mapping[str, Any]) -> Fact:
    synced, trouble = watch.get("synced") is True, _text(watch, "trouble")
    parts = ["synced" if synced else "no list yet"]
    if _amount(watch, "last_word_seconds") is not None:
        parts.append(f"last word {_lasting(watch, 'last_word_seconds')} ago")
    if trouble:
        parts.append(f"{trouble} (for {_lasting(watch, 'trouble_seconds')})")
    tone = Tone.BAD if not synced else Tone.WARN if trouble else Tone.GOOD
    return Fact(label=f"Watch of {_text(watch, 'resource')}", text=", ".join(parts), tone=tone)


def _row(pod: Mapping[str, Any], base: str) -> Row:
    condition = _text(pod, "condition")
    decision, held = _mapping(pod.get("decision")), _mapping(pod.get("credentials"))
    allowed = decision.get("allowed") is True
    arn = _text(pod, "role")
    addresses = [_mapping(address) for address in _list(pod.get("addresses"))]
    life, left = _amount(held, "life_seconds"), _amount(held, "left_seconds")
    known = life is not None and left is not None and life > 0
    renews = _amount(held, "renew_in_seconds")
    failure, failed, trouble = _failure(_mapping(pod.get("failure")))
    return Row(
        namespace=_text(pod, "namespace"),
        name=_text(pod, "name"),
        tone=TONES.get(condition, Tone.WARN),
        condition=f"{condition}, terminating" if pod.get("terminating") is True else condition,
        addresses=tuple(_text(address, "address") for address in addresses),
        role=arn.removeprefix(base) if base else arn,
        arn=arn,
        decision="permitted" if allowed else _text(decision, "reason"),
        why="" if allowed else _joined(_text(decision, "message"), _text(decision, "remedy")),
        life=min(1.0, max(0.0, (left or 0.0) / (life or 1.0))) if known else None,
        renewal=min(1.0, max(0.0, ((left or 0.0) - renews) / (life or 1.0))) if known and renews is not None else None,
        left=duration(left or 0.0) if known else "being fetched" if held.get("fetching") is True else "",
        renews="" if not known or renews is None else f"in {duration(renews)}" if renews > 0 else "due now",
        failure=failure,
        failed=failed,
        trouble=trouble,
        carriers=tuple(_carrier(address) for address in addresses),
    )


def _failure(failure: Mapping[str, Any]) -> tuple[str, str, str]:
    """What failed, for how long and until when, and what is said of it."""
    reason, code = _text(failure, "reason"), _text(failure, "code")
    if not reason:
        return "", "", ""
    when = f"for {_lasting(failure, 'since_seconds')}, again in {_lasting(failure, 'retry_in_seconds')}"
    return f"{reason} ({code})" if code else reason, when, _joined(_text(failure, "message"), _text(failure, "remedy"))


def _carrier(address: Mapping[str, Any]) -> tuple[str, ...]:
    """The device, and what else is to be said of it."""
    place, refused = _mapping(address.get("carrier")), _mapping(address.get("connections_refused"))
    device, bridge, hardware = (_text(place, key) for key in ("device", "bridge", "hardware"))
    words = [f"{bridge} port {device}" if bridge and device else device or bridge, hardware]
    reason, why = _text(address, "reason"), _text(address, "why")
    if reason:
        words.append(f"{reason} ({why})" if why else reason)
    if refused:
        words.append(f"{_whole(refused, 'number')} connections refused: {_text(refused, 'reason')}")
    return tuple(word for word in words if word)


def _joined(message: str, remedy: str) -> str:
    return "; ".join(part for part in (message, remedy) if part)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(about: Mapping[str, Any], key: str) -> str:
    value = about.get(key)
    # Cut twice: a character that is not shown is written as several, and a text may be of any length.
    return shortened(printable(shortened(value, LONGEST)), LONGEST) if isinstance(value, str) else ""


def _amount(about: Mapping[str, Any], key: str) -> float | None:
    value = about.get(key)
    # JSON has numbers that are none, and integers that no float holds; neither is an amount of anything here.
    sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12  # noqa: PLR2004
    return float(value) if sound else None  # type: ignore[arg-type]


def _whole(about: Mapping[str, Any], key: str) -> int:
    return int(_amount(about, key) or 0)


def _lasting(about: Mapping[str, Any], key: str) -> str:
    return duration(_amount(about, key) or 0.0)
