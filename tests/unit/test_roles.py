"""IAM's names: what is one, what is made of it, and what is never mistaken for one."""

import contextlib
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from metaproxy import roles
from metaproxy.roles import AssumeRole, BaseArn, RoleArn, RoleSyntaxError, resolve

ANYTHING = st.text(st.characters(exclude_categories=[]))
PARTITIONS = ["aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-iso-b", "aws-iso-e", "aws-iso-f", "aws-eusc"]
NAME_LETTERS = "abcXYZ019_+=,.@-"
ACCOUNTS = st.text("0123456789", min_size=12, max_size=12)
NAMES = st.text(NAME_LETTERS, min_size=1, max_size=64).filter(lambda name: name not in {".", ".."})
SEGMENTS = st.text(NAME_LETTERS + ":~!", min_size=1, max_size=20).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(SEGMENTS, max_size=4).map(lambda parts: "".join(f"{part}/" for part in parts))
ARNS = st.builds("arn:{}:iam::{}:role/{}{}".format, st.sampled_from(PARTITIONS), ACCOUNTS, PATHS, NAMES)
BASES = st.builds("arn:{}:iam::{}:role/{}".format, st.sampled_from(PARTITIONS), ACCOUNTS, PATHS)
BASE = BaseArn.parse("arn:aws:iam::123456789012:role/")
LEGAL = re.compile(r"[A-Za-z0-9_+=,.@-]{2,64}")


@given(ARNS)
def test_an_arn_comes_back_as_it_was(text: str) -> None:
    """Parse and render are inverse, in every partition, with and without path."""
    role = RoleArn.parse(text)
    assert role.arn == str(role) == text
    assert RoleArn.parse(role.arn) == role
    assert role.path.startswith("/")
    assert role.path.endswith("/")


@given(ANYTHING | st.text("arn:awsiol/-0123456789.*?\n", max_size=80))
def test_whatever_is_no_arn_is_refused(text: str) -> None:
    """Total: a role with the same text, or the one exception (kiam#519 panicked on a short ARN)."""
    for parse in (RoleArn.parse, BaseArn.parse):
        with contextlib.suppress(RoleSyntaxError):
            assert parse(text).arn.removesuffix("/") == text.removesuffix("/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "arn",
        "arn:",
        "arn:aws:iam",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:iam::123456789012:role",
        "arn:aws:iam::123456789012:role//r",
        "arn:aws:iam::123456789012:role/a//r",
        "arn:aws:iam::123456789012:role/../r",
        "arn:aws:iam::123456789012:role/a/./r",
        "arn:aws:iam::123456789012:role/..",
        "arn:aws:iam::123456789012:role/r/",
        "arn:aws:iam::123456789012:role/r\n",
        "arn:aws:iam::123456789012:role/r\x00",
        "arn:aws:iam::123456789012:role/é",
        "arn:aws:iam::123456789012:role/a*",
        "arn:aws:iam::123456789012:role/a b",
        "arn:aws:iam::123456789012:user/r",
        "arn:aws:iam::12345678901:role/r",
        "arn:aws:iam::1234567890123:role/r",
        "arn:aws:iam::\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661:role/r",
        "arn:aws:iam:eu-west-1:123456789012:role/r",
        "arn:aws:sts::123456789012:assumed-role/r/s",
        "arn:awsx:iam::123456789012:role/r",
        "arn:aws-:iam::123456789012:role/r",
        "arn:aws-iso-:iam::123456789012:role/r",
        "arn:aws-iso-bb:iam::123456789012:role/r",
        "ARN:aws:iam::123456789012:role/r",
        " arn:aws:iam::123456789012:role/r",
        "arn:aws:iam::123456789012:role/" + "r" * 65,
        "arn:aws:iam::123456789012:role/" + "p" * 511 + "/r",
    ],
)
def test_vector_42_malformed_arns(text: str) -> None:
    """Each is refused as what it is, wherever it may stand, and crashes nobody."""
    with pytest.raises(RoleSyntaxError):
        RoleArn.parse(text)


@given(ANYTHING.filter(lambda text: not text.isascii()))
def test_errors_show_foreign_text_printable_and_short(text: str) -> None:
    """They go to logs and bodies: ASCII, and a line's worth of it."""
    with pytest.raises(RoleSyntaxError) as caught:
        RoleArn.parse(text * 50)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 1000


def test_limits_are_iams() -> None:
    """A name of 64 and a path of 512 characters are roles."""
    text = "arn:aws:iam::123456789012:role/" + "p" * 510 + "/" + "r" * 64
    assert len(RoleArn.parse(text).path) == 512


@given(BASES)
def test_a_base_comes_back_as_it_was(text: str) -> None:
    """With its last slash or without."""
    assert BaseArn.parse(text).arn == str(BaseArn.parse(text)) == text
    assert BaseArn.parse(text.removesuffix("/")) == BaseArn.parse(text)


@pytest.mark.parametrize("path", ["..", "a/../b", "./", "a/.", "/", "a//b", "a b"])
def test_a_base_has_no_dots_and_no_gaps(path: str) -> None:
    """A base that a name could climb out of is none."""
    with pytest.raises(RoleSyntaxError):
        BaseArn.parse(f"arn:aws:iam::123456789012:role/{path}")


@given(BASES, PATHS, NAMES)
def test_names_stand_on_the_base(base: str, path: str, name: str) -> None:
    """Name and PATH/NAME, with or without a leading slash, are put behind the base; an ARN speaks for itself."""
    assume(not path.startswith("arn:"))
    role = resolve(f"{path}{name}", BaseArn.parse(base))
    assert role is not None
    assert role.arn == f"{base}{path}{name}"
    assert resolve(f"/{path}{name}", BaseArn.parse(base)) == role
    assert resolve(role.arn, None) == role
    assert resolve(role.arn, BASE) == role


@given(NAMES)
def test_without_a_base_a_name_waits(name: str) -> None:
    """Well-formed, but nobody knows yet whose: neither a role nor an error."""
    assert resolve(name, None) is None


@given(ANYTHING)
@example("arn:aws:iam::123456789012:role/../x")
@example("../x")
@example("//x")
@example("a/../../x")
def test_what_is_no_name_is_refused(text: str) -> None:
    """Total; and nothing that resolves ever leaves the base."""
    try:
        role = resolve(text, BASE)
    except RoleSyntaxError:
        return
    assert role is not None
    assert role.arn.startswith(BASE.arn) or role.arn == text
    assert "/../" not in role.arn


def test_a_name_with_a_base_that_is_too_long_is_refused() -> None:
    """The path of base and name together is IAM's limit, too."""
    with pytest.raises(RoleSyntaxError):
        resolve("p" * 300 + "/r", BaseArn.parse(f"arn:aws:iam::123456789012:role/{'b' * 300}/"))


def test_long_names_do_not_take_long() -> None:
    """A quarter of a megabyte of near misses is refused in linear time: no expression backtracks."""
    for text in ("a" * 262_144 + "*", "a/" * 131_072 + "*", "arn:aws:iam::123456789012:role/" + "a/" * 131_072):
        with pytest.raises(RoleSyntaxError) as caught:
            resolve(text, BASE)
        assert len(str(caught.value)) < 300


CALL: dict[str, Any] = {
    "role": RoleArn.parse("arn:aws:iam::123456789012:role/r"),
    "session_name": "s",
    "duration": 3600,
    "external_id": None,
    "tags": (),
    "source_identity": None,
}


@pytest.mark.parametrize(
    "change",
    [
        {"role": RoleArn.parse("arn:aws:iam::210987654321:role/r")},
        {"session_name": "t"},
        {"duration": 3601},
        {"external_id": "x1"},
        {"external_id": ""},
        {"tags": (("k", "v"),)},
        {"source_identity": "me"},
    ],
)
def test_vector_40_the_key_is_the_whole_call(change: dict[str, Any]) -> None:
    """Calls that differ in anything have different answers: kube2iam gave a session away without its external id."""
    one, same, other = AssumeRole(**CALL), AssumeRole(**CALL), AssumeRole(**(CALL | change))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert {one: 1}.get(other) is None


@given(ANYTHING)
def test_session_names_are_legal_and_stable(text: str) -> None:
    """What STS takes, the same each time; what was legal and fits stays as it is."""
    name = roles.session_name(text)
    assert LEGAL.fullmatch(name)
    assert roles.session_name(text) == name
    assert roles.session_name(name) == name
    if LEGAL.fullmatch(text):
        assert name == text


@given(st.text(NAME_LETTERS + "é/ ", min_size=65, max_size=90), st.text(NAME_LETTERS + "é/ ", min_size=65, max_size=90))
@example("a" * 70, "a" * 71)
@example("a" * 69 + "/", "a" * 69 + " ")
def test_long_session_names_stay_distinct(one: str, other: str) -> None:
    """Two long names that begin alike are two, even if only characters differ that a session name cannot have."""
    assume(one != other)
    assert roles.session_name(one) != roles.session_name(other)
    assert len(roles.session_name(one)) == 64


def test_session_names_are_cleaned_before_they_are_cut() -> None:
    """A name of 64 characters is whole; of 65 it ends in the hash of all of it (kiam cut first, at 63)."""
    assert roles.session_name("x" * 63 + "/") == "x" * 63 + "-"
    cut = roles.session_name("x" * 64 + "/")
    assert re.fullmatch(r"x{55}-[0-9a-f]{8}", cut)
    assert cut != roles.session_name("x" * 65)


@pytest.mark.parametrize(
    ("text", "name"), [("", "--"), ("a", "a-"), ("é", "--"), ("a b/c", "a-b-c"), ("\ud800x", "-x")]
)
def test_short_session_names_are_filled_up(text: str, name: str) -> None:
    """STS wants two characters at least."""
    assert roles.session_name(text) == name


@given(ANYTHING | st.just("aws:me"))
def test_source_identities_are_legal(text: str) -> None:
    """As STS takes them: as a session name, and never in AWS's own name space."""
    identity = roles.source_identity(text)
    assert LEGAL.fullmatch(identity)
    assert not identity.startswith("aws:")


@given(st.text("abcXYZ019_+=,.@:/-", min_size=2, max_size=1224))
def test_external_ids_are_taken_as_they_are(text: str) -> None:
    """Every one that STS takes."""
    assert roles.external_id(text) == text


@pytest.mark.parametrize("text", ["", "a", "a" * 1225, "a b", "aé", "ab\n", "ab*", "\u0661\u0662", "\ud800ab"])
def test_external_ids_are_never_mended(text: str) -> None:
    """Another external id is another authorisation: what STS would refuse is refused here."""
    with pytest.raises(RoleSyntaxError):
        roles.external_id(text)


@given(ANYTHING)
@example("a\nb\tc\x85d\x1ce")
def test_tag_values_are_legal(text: str) -> None:
    """Letters, digits and spaces of every script, and the few signs that STS allows; no control character."""
    value = roles.tag_value(text)
    assert len(value) == min(len(text), 256)
    assert all(unicodedata.category(letter)[0] in "LNZ" or letter in "_.:/=+-@" for letter in value)


@given(st.text("abc é世9 _.:/=+-@\u00a0", max_size=256))
def test_legal_tag_values_stay(text: str) -> None:
    """What STS takes is sent as it is."""
    assert roles.tag_value(text) == text


def test_templates_name_their_fields() -> None:
    """What stands in braces, and nothing else."""
    assert roles.fields_of("{namespace}.{workload}-{namespace}{{uid}}") == {"namespace", "workload", "uid"}
    assert roles.fields_of("plain") == frozenset()


@given(ANYTHING, ANYTHING)
def test_values_are_filled_in_once(one: str, other: str) -> None:
    """A value's own braces are text: nobody names a pod to get at another field."""
    assert roles.filled("{a}/{b}", {"a": one, "b": other}) == f"{one}/{other}"


def test_templates_do_not_walk_attributes() -> None:
    """Unlike with `str.format`, a template reaches the given values and nothing behind them."""
    with pytest.raises(KeyError):
        roles.filled("{a.__class__}", {"a": "x"})
    assert roles.filled("{a!r}"[:2] + "}", {"a": "x"}) == "x"
