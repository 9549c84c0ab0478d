"""How late this process is is seen: by it a cell that the machine has taken is told from one that a fault has."""

import asyncio
import time

from tests.conformance.lateness import Lateness


async def test_how_late_the_machine_is() -> None:
    """Whoever keeps the loop from going on is seen, and when."""
    lateness, loop = Lateness(), asyncio.get_running_loop()
    looking = asyncio.create_task(lateness.run())
    await asyncio.sleep(0)
    began = loop.time()
    time.sleep(0.5)  # noqa: ASYNC251  the fault itself
    await asyncio.wait({looking}, timeout=1.0)
    looking.cancel()
    assert 0.4 < lateness.worst <= lateness.total(began) < 10.0
    assert lateness.total(loop.time() + 1.0) == 0.0
    assert lateness.total(0.0, began - 1.0) == 0.0
