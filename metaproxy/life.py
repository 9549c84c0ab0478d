"""The agent as a process: how it begins, which signals end it, with which exit code.

Knows: the loop, signals, exit codes.
Must not know: what the agent is made of.
"""

import asyncio
import ctypes
import signal

import structlog
import uvloop

from metaproxy import descriptors, keyfile
from metaproxy.app import Agent
from metaproxy.doors import AddressTakenError
from metaproxy.settings import Settings
from metaproxy.telemetry import configure_logging

log = structlog.get_logger()


_PR_SET_DUMPABLE = 4


def close_to_others() -> None:
    """Let no process of the same user look into this one, by its files in /proc or as a debugger (proc(5), prctl(2)).

    A pod among the host's processes would else reach the handover's socket through /proc/PID/root, without a mount.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def run(settings: Settings) -> int:
    """The command: 0 after SIGTERM or SIGINT, 1 when something that should never end did, 2 when it cannot begin."""
    configure_logging(json=settings.log.format == "json", level=settings.log.level)
    descriptors.lift()
    close_to_others()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signal(settings))


async def _until_signal(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await Agent(settings).run(stop)
    except (keyfile.KeyFileError, AddressTakenError) as error:
        log.error("cannot begin", error=str(error))  # noqa: TRY400  a trace would help nobody
        return 2
    except Exception:
        log.exception("ended by a failure")
        return 1
    return 0
