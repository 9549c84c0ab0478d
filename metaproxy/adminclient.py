"""Asks the running agent about itself, over its unix socket or its address.

Knows: where an agent listens, and how to ask it one thing.
Must not know: what the answer means, how it is shown. No proxy is asked.
"""

import socket
from pathlib import Path

PATIENCE = 2.0
"""Seconds that the agent has for an answer about itself: it has it at hand, so more would not help."""

ANSWER_LIMIT = 16 * 1024 * 1024
"""Bytes of an answer that are read: many times what a full node has to say."""

Where = tuple[str, int] | Path
"""Host and port, or the path of a unix socket."""


class AgentError(Exception):
    """The running agent cannot be asked: says why."""


def ask(where: Where, target: str) -> tuple[int, str]:
    """Status and body of the running agent's answer.

    Raises:
        AgentError: there is none.
    """
    import http.client  # noqa: PLC0415  a fifth of the time that a probe takes, and not every command asks

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            if isinstance(where, Path):
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.settimeout(PATIENCE)
                self.sock.connect(str(where))
            else:
                self.sock = socket.create_connection(where, PATIENCE)

    connection = Connection("localhost" if isinstance(where, Path) else shown(where))
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read(ANSWER_LIMIT).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AgentError(f"no agent answers at {shown(where)}: {why}") from error
    finally:
        connection.close()


def shown(where: Where) -> str:
    """As one would write it."""
    if isinstance(where, Path):
        return str(where)
    host, port = where
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
