"""What is listed and watched: where it is, what is kept of it, who is told; and one list of it.

Knows: that objects come by the hundred, that each may be malformed alone, and that others want to run meanwhile.
Must not know: what the objects are for; when a list is due.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import structlog

from metaproxy.kubeclient import KubeClient
from metaproxy.watchlines import ListReader

log = structlog.get_logger()

BREATH = 16
"""Objects that are dealt with before everybody else may run: a burst must not hold up requests."""


class Item(Protocol):
    """An object as it is kept."""

    @property
    def uid(self) -> str:
        """Its uid."""
        ...

    @property
    def version(self) -> int:
        """Its resourceVersion."""
        ...


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Generic[ItemT]):
    """What is watched, and who is told.

    `name` for people and metrics. `selector`: query parameters that choose objects. The forms of Accept differ between
    list and watch. `parse` trims an object and raises ValueError for one that cannot be kept; the others report it.
    """

    name: str
    path: str
    selector: Mapping[str, str]
    list_accept: str
    watch_accept: str
    parse: Callable[[Any], ItemT]
    put: Callable[[ItemT], None]
    delete: Callable[[str, int], None]
    replace: Callable[[Iterable[ItemT], int], None]


async def read_list(
    client: KubeClient, resource: Resource[ItemT], *, consistent: bool, within: float
) -> tuple[list[ItemT], str]:
    """All objects, trimmed, and the list's version; malformed ones are left out.

    `consistent`: as etcd has them now. Else as the API server remembers them, which costs it almost nothing and works
    without etcd. `within`: seconds for the answer.

    Raises:
        KubeError: there is no list. WireError: the answer is none.
    """
    # The version 0 asks for memory; no version asks for the present. A limit would be ignored by the former.
    query = {**resource.selector, **({} if consistent else {"resourceVersion": "0"})}
    answer = await client.request(
        "GET", resource.path, query=query, headers={"Accept": resource.list_accept}, timeout=within
    )
    if not answer.ok:
        raise answer.error(f"list {resource.name}")
    reader = ListReader(answer.body)
    del answer  # what has been read need not be held twice
    items = []
    for count, obj in enumerate(reader, 1):
        if (item := parsed(resource, obj)) is not None:
            items.append(item)
        if count % BREATH == 0:
            await asyncio.sleep(0)
    return items, reader.version


def parsed(resource: Resource[ItemT], obj: Any) -> ItemT | None:
    """What is kept of an object; None, and a line in the log, for one that hurts only itself."""
    try:
        return resource.parse(obj)
    except ValueError as error:
        log.warning("malformed object skipped", resource=resource.name, error=str(error))
        return None
