"""One AssumeRole on the wire: what is sent for a call, and what came of it.

Knows: how a call is spelt for STS, when a request is worth a repetition.
Must not know: whose keys sign it, or where they come from; what becomes of the session.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from metaproxy.credentials import Credentials, Keys
from metaproxy.errors import IssueError, StsDenied
from metaproxy.roles import AssumeRole
from metaproxy.stsanswers import session_in
from metaproxy.stsclient import StsClient
from metaproxy.stserrors import dropped, translated


class Assuming:
    """See the module. `clock`: Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spare = False

    async def ask(
        self, client: StsClient, keys: Keys, call: AssumeRole, principal: Callable[[], Awaitable[str]]
    ) -> tuple[Credentials | IssueError, bool]:
        """The session or the failure, and whether to repeat it at once.

        `principal` finds the ARN that a trust policy must name: it is asked for a refusal alone.
        """
        issued = self._clock()
        try:
            answer = await client.send(keys, "assume_role", _spelt(call))
            credentials = session_in(answer, call, issued)
        except Exception as error:  # noqa: BLE001  whatever it is, it is translated
            raised = error
        else:
            self._spare = True
            return credentials, False
        # An idle connection that STS closed is worth a repetition; in an outage only the first one is.
        repeat, self._spare = self._spare and dropped(raised), False
        failure = translated(raised, call=call, who="")
        if isinstance(failure, StsDenied):
            failure = translated(raised, call=call, who=await principal())
        # Returned, not raised from there: its context would carry the signed request into tracebacks.
        return failure, repeat


def _spelt(call: AssumeRole) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "RoleArn": call.role.arn,
        "RoleSessionName": call.session_name,
        "DurationSeconds": call.duration,
    }
    if call.external_id is not None:
        parameters["ExternalId"] = call.external_id
    if call.tags:
        parameters["Tags"] = [{"Key": key, "Value": value} for key, value in call.tags]
    if call.source_identity is not None:
        parameters["SourceIdentity"] = call.source_identity
    return parameters
