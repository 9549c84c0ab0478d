"""How many files and sockets this process may have open.

Knows: the kernel's limit, how to raise it, how many of them connections may take.
Must not know: what the connections are.
"""

import errno
import resource

import structlog

log = structlog.get_logger()

RESERVE = 256
"""Descriptors for everything that is no pod's connection: the operator's listener, STS, the API server, files."""

SCARCE = {errno.EMFILE: "EMFILE", errno.ENFILE: "ENFILE", errno.ENOBUFS: "ENOBUFS", errno.ENOMEM: "ENOMEM"}
"""What accept(2) says when this process (EMFILE), or the whole node, has nothing left to make a connection of."""

REMEDY = (
    "raise the limit of open files: the container runtime's LimitNOFILE for EMFILE, fs.file-max of the node for ENFILE"
)


def lift() -> int:
    """Raise the soft limit to the hard one, which needs no privilege; the limit that holds from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files stays", limit=soft, hard=hard, error=str(error))
        return soft
    log.info("limit of open files raised", limit=hard, before=soft)
    return hard


def limit() -> int:
    """How many there may be now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def room(limit: int) -> int:
    """How many connections of pods fit below the limit: what the reserve leaves, and a quarter where that is more."""
    return max(limit - RESERVE, limit // 4, 1)
