"""Which keys sign calls, and what becomes of those that STS refused."""

from dataclasses import replace

from metaproxy.credentials import LAST_SERVED, Credentials, Keys, Secret
from metaproxy.handoverstate import Held
from metaproxy.keyring import Keyring
from metaproxy.roles import AssumeRole, RoleArn

OWN = Keys(access_key_id="AKIAOWN", secret_access_key=Secret("own"), session_token=None)
OTHERS = replace(OWN, access_key_id="AKIAOTHERS")
SESSION = Credentials(
    access_key_id="ASIAHOP",
    secret_access_key=Secret("hop"),
    session_token=Secret("token"),
    account="123456789012",
    issued=0.0,
    expires=3600.0,
)
END = SESSION.expires - LAST_SERVED


def test_our_own_keys_sign_until_they_are_refused() -> None:
    """And not because others were, which they have replaced."""
    ring = Keyring(separate=False)
    assert ring.signing(0.0) is None
    ring.own = OWN
    assert ring.signing(0.0) == OWN
    assert not ring.distrust(OTHERS), "those that were had before"
    assert ring.signing(0.0) == OWN
    assert ring.distrust(OWN)
    assert ring.suspect
    assert ring.signing(0.0) is None


def test_the_separate_roles_session_signs_and_nothing_else() -> None:
    """For as long as it may be used at all."""
    ring = Keyring(separate=True)
    ring.own = OWN
    assert ring.signing(0.0) is None, "our own keys are for the separate role alone"
    ring.hold(SESSION, due=1800.0)
    assert ring.signing(END - 1) == Keys.of(SESSION)
    assert ring.signing(END) is None


def test_when_the_separate_role_is_due() -> None:
    """A session that is not there is not due: whoever wants one asks whether anything signs."""
    ring = Keyring(separate=True)
    assert ring.due_in(0.0) == float("inf")
    ring.hold(SESSION, due=1800.0)
    assert ring.due_in(1000.0) == 800.0
    assert ring.due_in(2000.0) == -200.0


def test_a_refused_session_goes_and_our_own_keys_stay() -> None:
    """And the other way round."""
    ring = Keyring(separate=True)
    ring.own = OWN
    ring.hold(SESSION, due=1800.0)
    assert not ring.distrust(Keys.of(SESSION))
    assert ring.signing(0.0) is None
    assert ring.due_in(0.0) == float("inf")
    ring.hold(SESSION, due=1800.0)
    assert [ring.suspect, ring.distrust(OWN), ring.suspect] == [False, True, True]
    assert ring.signing(0.0) == Keys.of(SESSION), "what STS gave for them is good as long as STS takes it"


def test_what_another_process_may_have() -> None:
    """The separate role's session with its times from now, for as long as it signs."""
    call = AssumeRole(role=RoleArn.parse("arn:aws:iam::123456789012:role/hop"), session_name="hop", duration=3600)
    ring = Keyring(separate=True)
    assert ring.held(call, 0.0) is None
    ring.hold(SESSION, due=1800.0)
    assert ring.held(call, 600.0) == Held(call=call, credentials=SESSION, renew_in=1200.0, serve_in=END - 600.0)
    assert ring.held(call, END + 1) is None
