"""aiobotocore: one session and one client."""

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Any

import steps
from aiobotocore.session import get_session

session = get_session()
stack = AsyncExitStack()
made: list[Any] = []


async def asked() -> str:
    """GetCallerIdentity."""
    if not made:
        client = session.create_client("sts", endpoint_url=os.environ["STS_URL"])
        made.append(await stack.enter_async_context(client))
    await made[0].get_caller_identity()
    credentials = await session.get_credentials()
    assert credentials is not None
    return str((await credentials.get_frozen_credentials()).access_key)


with asyncio.Runner() as runner:
    steps.run(lambda: runner.run(asked()))
    runner.run(stack.aclose())
