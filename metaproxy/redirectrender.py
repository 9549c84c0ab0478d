"""The redirect on paper: a script for review or for a unit that runs before the kubelet, and Cilium's way to say it.

Knows: the form of both. Must not know: what the node has.
"""

from metaproxy import redirectiptables, redirectnft
from metaproxy.redirectplan import Backend, Family, Plan
from metaproxy.redirectroutes import address, guard, route

_HEAD = """\
#!/bin/sh
# What metaproxy redirect apply brings about, for a node that has none of it. Exit code 2 of ip: it is there already.
"""

_CILIUM = """\
# Cilium's own data plane passes netfilter by: there this policy leads pods to the agent of their node. It needs
# localRedirectPolicies.enabled=true, and an agent that is a pod with an address of its own (hostNetwork: false) and
# started with --server.accept-direct=true. What the agent itself asks is not led back to it.
"""


def script(plan: Plan, backend: Backend) -> str:
    """Everything, in the order in which nothing is open in between."""
    lines = [_HEAD]
    if plan.own_device:
        lines += [f"ip link add {plan.device} type dummy || test $? -eq 2", f"ip link set {plan.device} up"]
    for family in plan.families:
        lines += [
            _command("ip", *address(plan, family)),
            _command("ip", family.flag, "route", "replace", *route(family)),
            *_guard(plan, family),
        ]
    if backend == "nftables":
        lines.append(f"nft -f - <<'END'\n{redirectnft.transaction(plan)}END")
    else:
        for family in plan.families:
            command = restore(backend, family)
            lines.append(f"{' '.join(command)} <<'END'\n{redirectiptables.restoration(plan, family, '')}END")
    lines += [f"{_command('conntrack', *stale(family))} || true" for family in plan.families]
    return "\n".join([*lines, ""])


def guard_script(plan: Plan) -> str:
    """The guard alone: enough to close a node before anything of the cluster runs on it."""
    lines = [line for family in plan.families for line in _guard(plan, family)]
    return "\n".join(["#!/bin/sh", "# Nothing forwarded reaches the metadata service.", *lines, ""])


def cilium(plan: Plan) -> str:
    """A CiliumLocalRedirectPolicy for each family."""
    return _CILIUM + "---\n".join(
        f"""\
apiVersion: cilium.io/v2
kind: CiliumLocalRedirectPolicy
metadata:
  name: metaproxy-{family.name.lower()}
  namespace: kube-system
spec:
  skipRedirectFromBackend: true
  redirectFrontend:
    addressMatcher:
      ip: "{family.metadata}"
      toPorts:
        - port: "80"
          protocol: TCP
  redirectBackend:
    localEndpointSelector:
      matchLabels:
        app.kubernetes.io/name: metaproxy
    toPorts:
      - port: "{plan.port}"
        protocol: TCP
"""
        for family in plan.families
    )


def restore(backend: Backend, family: Family) -> list[str]:
    """The command that takes what `redirectiptables` writes."""
    return [f"{family.iptables}-{backend.removeprefix('iptables-')}-restore", "--noflush", "--wait", "5"]


def stale(family: Family) -> list[str]:
    """Arguments of conntrack: entries that the real service answers, and no others.

    A flush of all entries to the metadata address would hang requests that wait in the agent.
    """
    match = ["--orig-dst", family.metadata, "--dport", "80", "--reply-src", family.metadata]
    return ["-D", "-f", family.conntrack, "-p", "tcp", *match]


def _guard(plan: Plan, family: Family) -> list[str]:
    return [f"{_command('ip', family.flag, 'rule', 'add', *rule)} || test $? -eq 2" for rule in guard(plan, family)]


def _command(*words: str) -> str:
    return " ".join(words)
