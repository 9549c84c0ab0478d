"""Who asks STS for a session, and the bounds that hold whoever that is.

Knows: how long one call may take, what a session must be to be worth keeping.
Must not know: botocore, when to ask, who wants it.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from metaproxy.credentials import Credentials, usable
from metaproxy.errors import IssueError, StsOwnIdentity, StsUnreachable
from metaproxy.roles import AssumeRole
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

FLIGHT_LIMIT = 15.0
"""Seconds after which a call is given up, whatever the supplier's own time-outs are."""


class Issuer(Protocol):
    """Who asks STS."""

    async def issue(self, call: AssumeRole) -> Credentials:
        """The session that the call gives; raises an IssueError when it gives none."""
        ...


class BoundedIssuer:
    """Another issuer, whose every call ends in time, is measured, and fails with an IssueError or not at all."""

    def __init__(self, issuer: Issuer, metrics: Metrics, *, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._metrics = metrics
        self._clock = clock

    async def issue(self, call: AssumeRole) -> Credentials:
        """As above."""
        loop = asyncio.get_running_loop()
        begun, outcome = loop.time(), "ok"
        try:
            async with asyncio.timeout(FLIGHT_LIMIT):
                return await self._issued(call)
        except IssueError as failure:
            outcome = failure.reason.value
            raise
        except TimeoutError as error:
            outcome = StsUnreachable.reason.value
            raise StsUnreachable("STS did not answer in time", remedy="ask again; STS is asked on") from error
        except Exception as error:
            # A mistake of the supplier's must not end the agent: every other pod still depends on it.
            outcome = StsUnreachable.reason.value
            log.exception("the call to STS broke", role_arn=call.role.arn)
            raise StsUnreachable("the call to STS broke", remedy="ask again, and tell the operator") from error
        finally:
            self._metrics.histogram("sts_request_duration_seconds", outcome=outcome).observe(loop.time() - begun)

    async def _issued(self, call: AssumeRole) -> Credentials:
        credentials = await self._issuer.issue(call)
        if usable(credentials, self._clock()):
            return credentials
        # A failure, with its pauses: kept as a session it would be due again at once, for ever.
        raise StsOwnIdentity(
            "the session that STS gave is over already: the node's clock is wrong",
            remedy="ask again, and tell the operator to set the node's clock",
        )
