"""A machine whose clock is wrong by the seconds in the file that `CLOCK` names: what Python tells of the time of day.

Loaded by the interpreter when this folder is on its path; the program that it runs is as it is.
"""

import datetime as dt
import os
import time
from pathlib import Path

_right, _file = time.time, Path(os.environ["CLOCK"])


def _time() -> float:
    return _right() + float(_file.read_text())


class _Datetime(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "_Datetime":
        return cls.fromtimestamp(_time(), tz)

    @classmethod
    def utcnow(cls) -> "_Datetime":
        return cls.now(dt.UTC).replace(tzinfo=None)


time.time = _time
setattr(dt, "datetime", _Datetime)  # noqa: B010  no type checker likes a class to be exchanged
