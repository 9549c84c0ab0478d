"""Everything that the kernel has said of links, routes, neighbours and bridges' ports, by what it is about.

Knows: how one word changes what was said before, and which route leads to an address.
Must not know: netlink's wire, which addresses matter, what carries what.
"""

import ipaddress
from dataclasses import dataclass, field

from metaproxy.netlink import Fact, Forwarding, Link, Neighbour, Route

FORWARDING = 16384
"""Hardware addresses that are kept of all bridges: a pod can make up as many as it likes, a node has some hundreds."""

_FULL = {4: 32, 6: 128}


@dataclass(slots=True)
class Known:
    """A link, and the number of its life: an index may be given anew."""

    link: Link
    born: int


@dataclass(slots=True)
class View:
    """See the module.

    `links` by index; `routes` by version and length, prefix, and service and metric: the link; `neighbours` by link and
    address: the hardware address; `ports` by bridge and hardware address: the links, each with its VLAN.
    """

    links: dict[int, Known] = field(default_factory=dict)
    routes: dict[tuple[int, int], dict[int, dict[tuple[int, int], int]]] = field(default_factory=dict)
    neighbours: dict[tuple[int, str], bytes] = field(default_factory=dict)
    ports: dict[tuple[int, bytes], set[tuple[int, int]]] = field(default_factory=dict)

    def put_link(self, link: Link, born: int) -> None:
        """A link is there, in the life of that number."""
        self.links[link.index] = Known(link, born)
        if not link.up:
            self._drop_routes(link.index)

    def drop_link(self, index: int) -> None:
        """A link is gone, and all that was said of it with it."""
        self.links.pop(index, None)
        for each in [each for each in self.neighbours if each[0] == index]:
            del self.neighbours[each]
        for key in [key for key in self.ports if key[0] == index]:
            del self.ports[key]
        for key, ports in list(self.ports.items()):
            ports -= {each for each in ports if each[0] == index}
            if not ports:
                del self.ports[key]
        self._drop_routes(index)

    def apply(self, fact: Route | Neighbour | Forwarding) -> None:
        """Something else is there, or is gone."""
        if isinstance(fact, Route):
            self._apply_route(fact)
        elif isinstance(fact, Neighbour):
            if fact.hardware:
                self.neighbours[fact.link, fact.address] = fact.hardware
            else:
                self.neighbours.pop((fact.link, fact.address), None)
        else:
            self._apply_port(fact)

    def route(self, text: str) -> tuple[int, bool]:
        """The device that the longest route to the address leads to, 0 for none; and whether it is for it alone."""
        address = ipaddress.ip_address(text)
        number, full = int(address), _FULL[address.version]
        for length in range(full, -1, -1):
            networks = self.routes.get((address.version, length))
            if networks and (choices := networks.get(number >> (full - length))):
                return choices[min(choices, key=_preference)], length == full
        return 0, False

    def _drop_routes(self, link: int) -> None:
        """The kernel takes IPv4 routes of a device that goes down away without a word."""
        for where, networks in list(self.routes.items()):
            for prefix, choices in list(networks.items()):
                for key in [key for key, out in choices.items() if out == link]:
                    del choices[key]
                if not choices:
                    del networks[prefix]
            if not networks:
                del self.routes[where]

    def _apply_route(self, route: Route) -> None:
        networks = self.routes.setdefault((route.version, route.length), {})
        prefix = route.network >> (_FULL[route.version] - route.length)
        choices = networks.setdefault(prefix, {})
        key = (route.tos, route.metric)
        if not route.gone:
            choices[key] = route.link
        elif choices.get(key) == route.link:
            del choices[key]
        if not choices:
            del networks[prefix]
        if not networks:
            del self.routes[route.version, route.length]

    def _apply_port(self, fact: Forwarding) -> None:
        ports = self.ports.setdefault((fact.bridge, fact.hardware), set())
        if fact.gone:
            ports.discard((fact.port, fact.vlan))
        else:
            # In one VLAN a bridge knows one port: the newest.
            ports -= {each for each in ports if each[1] == fact.vlan}
            ports.add((fact.port, fact.vlan))
        if not ports:
            del self.ports[fact.bridge, fact.hardware]
        elif len(self.ports) > FORWARDING:
            self._drop_stray()

    def _drop_stray(self) -> None:
        """Forget the oldest half of the hardware addresses that no neighbour has."""
        used = {(link, hardware) for (link, _), hardware in self.neighbours.items()}
        for key in [key for key in self.ports if key not in used][: FORWARDING // 2]:
            del self.ports[key]


def sole_address(route: Route) -> str:
    """The address that a route is for, if it is for one alone; else an empty text."""
    if route.length != _FULL[route.version]:
        return ""
    number = route.network
    return str(ipaddress.IPv4Address(number) if route.version == 4 else ipaddress.IPv6Address(number))  # noqa: PLR2004  IP's


def about(fact: Fact) -> tuple[object, ...]:
    """What a fact is about."""
    if isinstance(fact, Link):
        return ("link", fact.index)
    if isinstance(fact, Route):
        return ("route", fact.version, fact.network, fact.length, fact.tos, fact.metric)
    if isinstance(fact, Neighbour):
        return ("neighbour", fact.link, fact.address)
    return ("port", fact.bridge, fact.hardware, fact.vlan)


def _preference(key: tuple[int, int]) -> tuple[int, int]:
    tos, metric = key
    return (tos != 0, metric)
