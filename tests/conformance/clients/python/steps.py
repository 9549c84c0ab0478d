"""What the Python programs share: one line of JSON for each step, a further step when asked."""

import json
import sys
from collections.abc import Callable


def run(prove: Callable[[], str], forget: Callable[[], None] = lambda: None) -> None:
    """Call `prove`, which gives the access key id that it signed with, once, and again for each line of input.

    `forget` is called before when the line is `anew`: then the client is to be made anew.
    """
    step = 1
    while True:
        try:
            told: dict[str, object] = {"step": step, "ok": True, "key": prove()}
        except Exception as error:  # noqa: BLE001  whatever a client raises is its message
            told = {"step": step, "ok": False, "error": "; caused by ".join(_chain(error))}
        print(json.dumps(told), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line == "anew\n":
            forget()
        step += 1


def _chain(error: BaseException | None) -> list[str]:
    said = []
    while error is not None:
        said.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return said
