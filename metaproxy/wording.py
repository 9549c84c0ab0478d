"""How foreign text and amounts are put before a person, wherever that is.

Knows: which characters do something other than show, and how long a time sounds.
Must not know: what is said.
"""

MINUTE, HOUR, DAY = 60, 3600, 86_400
"""Seconds."""


def printable(text: str) -> str:
    """Text that does nothing to a terminal or to the order of letters: parts of it were written by pods' owners."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shortened(text: str, limit: int) -> str:
    """At most so many characters of the text."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def duration(seconds: float) -> str:
    """A time in its two largest units; what is below zero is over, and nothing."""
    whole = max(0, round(seconds))
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min" if whole >= 10 * MINUTE else f"{whole // MINUTE} min {whole % MINUTE:02} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE:02} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"
