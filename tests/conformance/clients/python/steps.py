"""What the Python programs share: one line of JSON for each step, a second step when asked."""

import json
import sys
from collections.abc import Callable


def run(prove: Callable[[], str]) -> None:
    """Call `prove`, which gives the access key id that it signed with, once, and again for each line of input."""
    step = 1
    while True:
        try:
            told: dict[str, object] = {"step": step, "ok": True, "key": prove()}
        except Exception as error:  # noqa: BLE001  whatever a client raises is its message
            told = {"step": step, "ok": False, "error": "; caused by ".join(_chain(error))}
        print(json.dumps(told), flush=True)
        if step == 2 or not sys.stdin.readline():
            return
        step += 1


def _chain(error: BaseException | None) -> list[str]:
    said = []
    while error is not None:
        said.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return said
