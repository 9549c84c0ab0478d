"""The commands about a set-up: config, iam, doctor. They change nothing.

Knows: their options and help, and how their answers are told to a person.
Must not know: what any answer says.

What a command needs is imported when it runs: see `__main__`.
"""

import json
from collections.abc import Mapping, Sequence

from metaproxy.command import CLEAN, FAILED, Command, UsageError, parser_of, parted
from metaproxy.wording import printable


def _config(name: str, arguments: Sequence[str]) -> int:
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import as_yaml, load  # noqa: PLC0415

    parser = parser_of(name)
    parser.add_argument("--from", dest="peer")
    try:
        mine, theirs = parted(arguments)
        options, flags = parser.read(mine)
        if options.peer is not None:
            text, whole = _migrated(options.peer, theirs)
            print(text, end="")
            return CLEAN if whole else FAILED
        if theirs:
            raise UsageError("flags after -- are a peer's: --from kiam or --from kube2iam")
        print(as_yaml(load(Settings, flags)), end="")
    except SettingsError as error:
        raise UsageError(str(error)) from error
    return CLEAN


def _migrated(peer: str, flags: Sequence[str]) -> tuple[str, bool]:
    """A peer's flags as our settings file, with a comment for each that has no place in it; whether all are known."""
    import yaml  # noqa: PLC0415

    from metaproxy.migration import PEERS, migrated  # noqa: PLC0415

    known = next((each for each in PEERS if each == peer), None)
    if known is None:
        raise UsageError(f"--from: one of {', '.join(PEERS)}")
    found = migrated(known, flags)
    lines = [f"# {flag}: {why}\n" for flag, why in found.notes]
    # Quoted: whatever such a word is, it stays within its comment.
    lines += [f"# unknown: {word!a} {why}\n" for word, why in found.unknown]
    settings = yaml.safe_dump(found.settings, sort_keys=True) if found.settings else ""
    return settings + "".join(lines), not found.unknown


def _iam(name: str, arguments: Sequence[str]) -> int:
    from metaproxy import iam  # noqa: PLC0415  see the module
    from metaproxy.iamformats import FORMATS  # noqa: PLC0415
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import load_some  # noqa: PLC0415

    parser = parser_of(name)
    parser.add_argument("verb", choices=iam.VERBS)
    for option in ("--role", "--node-role"):
        parser.add_argument(option, action="append", default=[])
    for option in ("--external-id", "--existing"):
        parser.add_argument(option, default="")
    parser.add_argument("--format", choices=list(FORMATS), default="json")
    try:
        options, flags = parser.read(arguments)
        chosen = load_some(Settings, flags, "assume_role_arn", "role_base_arn", "sts")
        text = iam.document(
            options.verb,
            hop=chosen.assume_role_arn,
            base=chosen.role_base_arn,
            tags=bool(chosen.sts.session_tags),
            source_identity=bool(chosen.sts.source_identity),
            roles=options.role,
            node_roles=options.node_role,
            external_id=options.external_id,
            existing=options.existing,
            form=options.format,
        )
    except (SettingsError, iam.IamError) as error:
        raise UsageError(str(error)) from error
    print(text, end="")
    return CLEAN


def _doctor(name: str, arguments: Sequence[str]) -> int:
    from metaproxy import doctor  # noqa: PLC0415  see the module
    from metaproxy.findings import as_document, as_lines, good  # noqa: PLC0415
    from metaproxy.migration import PEERS, MigrationError  # noqa: PLC0415
    from metaproxy.peers import PeerRules  # noqa: PLC0415
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import load_some  # noqa: PLC0415

    parser = parser_of(name)
    for option in ("--json", "--node"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--compat", choices=PEERS)
    mine, theirs = parted(arguments)
    try:
        options, flags = parser.read(mine)
        chosen = load_some(Settings, flags, *(doctor.NODE_GROUPS if options.node else doctor.GROUPS))
        peer = PeerRules.of(options.compat, theirs) if options.compat else None
    except (SettingsError, MigrationError) as error:
        raise UsageError(str(error)) from error
    if theirs and peer is None:
        raise UsageError("flags after -- are a peer's: --compat kiam or --compat kube2iam")
    if options.node and peer is not None:
        raise UsageError("--compat compares pods, which --node does not look at")
    found = doctor.examine_node(chosen) if options.node else doctor.examine(chosen, peer)
    if options.json:
        print(json.dumps(as_document(found), indent=2))
    else:
        for line in as_lines(found):
            print(printable(line))
    return CLEAN if good(found) else FAILED


COMMANDS: Mapping[str, Command] = {
    "config": Command(
        summary="show the settings in effect, and where each comes from",
        usage="[--from kiam|kube2iam -- FLAGS...] [settings]",
        about="Shows the settings in effect as YAML, each with its source, passwords left out; exit code 2 when they\n"
        "cannot work.\n\n"
        "  --from kiam|kube2iam -- FLAGS...\n"
        "      What the flags of that program come to: a settings file, and why a flag has no place in it. Words\n"
        "      that are none of its flags are named at the end, and make the exit code 1.",
        act=_config,
    ),
    "iam": Command(
        summary="print the IAM documents of a set-up",
        usage="(node-policy | hop-policy | hop-trust | trust-policy) [options] [settings]",
        about="Asks and changes nothing. What the settings turn on (separate role, session tags, source identity)\n"
        "is in the documents, and nothing else.\n\n"
        "  node-policy\n      What the nodes' role, or the agent's own, may do.\n"
        "  hop-policy\n      What the separate role may do.\n"
        "  hop-trust\n      Whom the separate role trusts.\n"
        "  trust-policy\n      Whom an application role trusts: the separate role if there is one, else --node-role.\n"
        "  --role ROLE (several)\n      Application roles: a name, PATH/NAME or ARN; policies are narrowed to them.\n"
        "  --node-role ARN (several)\n      The role of the nodes, or of the agent.\n"
        "  --external-id ID\n      What trust-policy asks for besides.\n"
        "  --existing FILE\n      A trust policy whose other statements are kept.\n"
        "  --format json|terraform|cloudformation\n      Default: json.",
        act=_iam,
    ),
    "doctor": Command(
        summary="look for what is wrong with a set-up",
        usage="[--json] [--node | --compat kiam|kube2iam [-- FLAGS...]] [settings]",
        about="Looks at identity, roles, cluster and node, and says of each check: ok, warning, problem, or not\n"
        "checked and why; with a remedy. Every role that a pod is entitled to is assumed once, and nothing kept.\n"
        "Nothing is changed. Exit code 0 when there is no problem, 1 when there is one, 2 for bad usage: what was\n"
        "not checked is no problem, and not good either. See docs/doctor.md.\n\n"
        "  --json\n      The answer for a program.\n"
        "  --node\n      This node's rules, links, switches and clock alone, for which neither a cluster nor an\n"
        "      identity is needed, but the node's tools and CAP_NET_ADMIN: in the redirect's container.\n"
        "  --compat kiam|kube2iam\n      Also which pods would be decided differently than by that peer, and why.\n"
        "  FLAGS\n      The flags that the peer is started with.",
        act=_doctor,
    ),
}
