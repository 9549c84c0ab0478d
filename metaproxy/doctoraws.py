"""The doctor's questions to AWS: who we are, where, by whose clock; and each AssumeRole, tried as the agent would.

Knows: the agent's own way to STS, and how fast it may be asked.
Must not know: what the answers mean for a verdict. Sessions that come are thrown away at once.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, Self

from metaproxy.awschecks import Attempt, Aws
from metaproxy.credentials import Keys, Secret
from metaproxy.errors import IssueError
from metaproxy.passthrough import Upstream
from metaproxy.roles import AssumeRole, BaseArn
from metaproxy.settingvalues import partition_of
from metaproxy.sts import Sts
from metaproxy.stsanswers import identity_in
from metaproxy.stsclient import StsClient
from metaproxy.stserrors import own_failure
from metaproxy.telemetry import Metrics
from metaproxy.wiring import sts_options

WITHIN = 15.0
"""Seconds for all that finding out who we are may take."""

FASTEST, AT_ONCE = 10.0, 8
"""Calls to STS per second, however much sts.rate allows, and under way at once: a node beside it needs the quota."""

_NOBODY = Keys(access_key_id="AKIA0000000000000000", secret_access_key=Secret("nobody's"), session_token=None)


class AwsLook:
    """One look; an async context manager."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        self._options = sts_options(settings)
        self._stack = AsyncExitStack()
        self._upstream = Upstream(settings.upstream.url, metrics=Metrics())
        self._sts: Sts

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._upstream)
        self._sts = await self._stack.enter_async_context(Sts(self._options, find_region=self._upstream.region))
        keeping = asyncio.create_task(self._sts.run(), name="own identity")
        self._stack.push_async_callback(_ended, keeping)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def aws(self) -> Aws:
        """Who we are, where, and whether the separate role can be had."""
        seen = replace(await self._ourselves(), hop=self._options.hop.arn if self._options.hop else "")
        given = self._settings.role_base_arn
        if given:
            seen = replace(seen, base=BaseArn.parse(given), base_given=True)
        if seen.own_failure is None and seen.hop:
            try:
                await self._sts.usable()
            except IssueError as failure:
                seen = replace(seen, hop_failure=failure)
        return seen

    async def tried(self, calls: Mapping[AssumeRole, tuple[str, ...]]) -> Sequence[Attempt]:
        """Every call tried once, no faster than STS should be asked."""
        pause = 1.0 / min(self._settings.sts.rate, FASTEST)
        room = asyncio.Semaphore(AT_ONCE)

        async def attempt(number: int, call: AssumeRole, subjects: tuple[str, ...]) -> Attempt:
            await asyncio.sleep(number * pause)
            async with room:
                try:
                    await self._sts.issue(call)
                except IssueError as failure:
                    return Attempt(call=call, subjects=subjects, failure=failure)
                return Attempt(call=call, subjects=subjects)

        return await asyncio.gather(*(attempt(n, call, who) for n, (call, who) in enumerate(calls.items())))

    async def _ourselves(self) -> Aws:
        """Identity, region, clock: one GetCallerIdentity with what the default chain finds."""
        seen = Aws()
        client: StsClient | None = None
        before = time.time()
        try:
            async with asyncio.timeout(WITHIN):
                client = await StsClient.open(self._options, self._upstream.region)
                seen = replace(
                    seen, region=client.region, region_partition=partition_of(client.region), endpoint=client.endpoint
                )
                keys = await client.own_keys()
                if keys is None:
                    raise LookupError("no credentials")  # noqa: TRY301  told like every other
                before = time.time()
                answer = await client.send(keys, "get_caller_identity", {})
                seen = replace(seen, skew=_skew(answer, before))
                identity = identity_in(answer)
        except Exception as error:  # noqa: BLE001  the chain reads files, runs processes, asks services
            said = getattr(error, "response", None)
            skew = _skew(said, before) if said is not None else seen.skew
            return replace(seen, own_failure=own_failure(error), skew=skew)
        finally:
            if client is not None:
                await client.close()
        return replace(
            seen,
            identity=identity.arn,
            principal=identity.role,
            partition=identity.partition,
            base=BaseArn(partition=identity.partition, account=identity.account),
        )


async def sts_skew(settings: Any) -> float | None:
    """Our clock minus that of STS, by its answer to whom it does not know; None where it does not answer.

    Who we are does not matter: a container of the node that has no identity can be told the time.
    """
    client: StsClient | None = None
    before = time.time()
    async with Upstream(settings.upstream.url, metrics=Metrics()) as upstream:
        try:
            async with asyncio.timeout(WITHIN):
                client = await StsClient.open(sts_options(settings), upstream.region)
                before = time.time()
                return _skew(await client.send(_NOBODY, "get_caller_identity", {}), before)
        except Exception as error:  # noqa: BLE001  files are read, services asked
            return _skew(getattr(error, "response", None), before)
        finally:
            if client is not None:
                await client.close()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _skew(answer: Any, before: float) -> float | None:
    """Our clock minus that of who answered, by the middle of the request; None without a date."""
    parts = answer.get("ResponseMetadata") if isinstance(answer, Mapping) else None
    headers = parts.get("HTTPHeaders") if isinstance(parts, Mapping) else None
    return skew_of(headers.get("date") if isinstance(headers, Mapping) else None, before)


def skew_of(date: Any, before: float) -> float | None:
    """The same by a Date header, which names whole seconds."""
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None
    # A date of whole seconds is half a second old on the average.
    return (before + time.time()) / 2 - (theirs + 0.5)
