"""The addresses at which this process listens, and whose the sockets there are.

Knows: the names under which listening sockets are handed over, and how each is bound.
Must not know: who answers there, or how sockets travel.
"""

import socket

from metaproxy import listener, sockets
from metaproxy.admin import BACKLOG
from metaproxy.settingvalues import join_address

Address = tuple[str, int]


def pods(address: Address) -> str:
    """The name of a socket at which pods are answered."""
    return f"pods at {join_address(address)}"


def admin(address: Address) -> str:
    """The name of a socket at which the operator is answered."""
    return f"admin at {join_address(address)}"


def admin_socket(address: Address) -> socket.socket:
    """Where the operator asks the agent of this node; OSError when it cannot be had."""
    return sockets.listening(*address, backlog=BACKLOG, free=False)


def bound(listen: list[Address], operator: Address | None) -> dict[str, socket.socket]:
    """Every listening socket by its name, when there is nobody to take them over from; OSError when one cannot be."""
    made = {pods(each): one for each, one in listener.bound(listen).items()}
    if operator is not None:
        try:
            made[admin(operator)] = admin_socket(operator)
        except OSError:
            for each in made.values():
                each.close()
            raise
    return made
