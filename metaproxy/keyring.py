"""The keys that sign calls to STS: our own, and those of the separate role.

Knows: which of them signs calls for application roles, which STS has refused, when the separate role is due again.
Must not know: how keys are found or asked for, the clock. Times are Unix seconds.
"""

from metaproxy.credentials import LAST_SERVED, Credentials, Keys, usable
from metaproxy.handoverstate import Held
from metaproxy.roles import AssumeRole


class Keyring:
    """See the module. `separate`: application roles are asked for by the separate role, and by no other keys.

    `suspect`: STS refused our own keys, and has not taken them or others since.
    """

    def __init__(self, *, separate: bool) -> None:
        self._separate = separate
        self._session: Credentials | None = None
        self._due = float("inf")
        self.own: Keys | None = None
        self.suspect = False

    def signing(self, now: float) -> Keys | None:
        """What signs calls for application roles; None while there is nothing that may."""
        if not self._separate:
            return None if self.suspect else self.own
        return Keys.of(self._session) if self._session is not None and usable(self._session, now) else None

    def due_in(self, now: float) -> float:
        """Seconds until the separate role's session is to be renewed; for ever when none is held."""
        return self._due - now

    def hold(self, session: Credentials, *, due: float) -> None:
        """The separate role's session, which is to be renewed then."""
        self._session, self._due = session, due

    def inherit(self, held: Held | None, call: AssumeRole | None, now: float) -> bool:
        """Whether another process held the session that the call would give; from now on this one holds it."""
        if held is None or held.credentials is None or held.call != call:
            return False
        self.hold(held.credentials, due=now + held.renew_in)
        return True

    def held(self, call: AssumeRole | None, now: float) -> Held | None:
        """The separate role's session, which the call gave, for another process; None while none signs."""
        if call is None or self._session is None or not usable(self._session, now):
            return None
        return Held(
            call=call,
            credentials=self._session,
            renew_in=self._due - now,
            serve_in=self._session.expires - LAST_SERVED - now,
        )

    def distrust(self, keys: Keys) -> bool:
        """STS refused these keys: whoever comes next waits for others. Whether they are our own."""
        if self._session is not None and keys == Keys.of(self._session):
            self._session, self._due = None, float("inf")
            return False
        self.suspect = self.suspect or keys == self.own
        return keys == self.own
