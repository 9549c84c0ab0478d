"""aiobotocore: one session and one client."""

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Any

import steps
from aiobotocore.session import get_session

stack = AsyncExitStack()
made: list[Any] = []


async def asked() -> str:
    """GetCallerIdentity."""
    if not made:
        session = get_session()
        client = session.create_client("sts", endpoint_url=os.environ["STS_URL"])
        made.extend((session, await stack.enter_async_context(client)))
    session, client = made
    await client.get_caller_identity()
    credentials = await session.get_credentials()
    assert credentials is not None
    return str((await credentials.get_frozen_credentials()).access_key)


with asyncio.Runner() as runner:
    steps.run(lambda: runner.run(asked()), made.clear)
    runner.run(stack.aclose())
