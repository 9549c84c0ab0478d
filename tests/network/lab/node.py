"""The node: pods in three styles, the way to the metadata service behind it, the agent and its redirect as processes.

Knows how networks of nodes are wired; must not know what a test does with them.

Styles: `bridge` as Flannel and kubenet wire pods, `proxyarp` as Calico does (an address of one pod alone on a veth
whose other end answers for everybody), `policy` as the VPC CNI does (routing by source, a permanent neighbour as
gateway).
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from metaproxy.addresses import METADATA_IPV4, METADATA_IPV6, OWN_IPV4, OWN_IPV6, PORT
from tests.network.lab.namespaces import PATIENCE, Namespace, ask
from tests.network.lab.processes import QUIET, Process
from tests.network.lab.recorder import MARK

METADATA = {4: METADATA_IPV4, 6: METADATA_IPV6}
OWN = {4: OWN_IPV4, 6: OWN_IPV6}
NEIGHBOURS = {4: ("169.254.170.2", "169.254.170.23"), 6: ("fd00:ec2::23",)}
"""Addresses of the same kind that are others': of ECS's and EKS's own agents."""

SERVICE = {4: "10.96.0.9", 6: "fd96::9"}
NODE = {4: "10.9.0.1", 6: "fd09::1"}
BEHIND = {4: "10.9.0.2", 6: "fd09::2"}
STYLES = ("bridge", "proxyarp", "policy")
GATEWAY_MAC = "ee:ee:ee:ee:ee:ee"
BOTO3 = "import boto3; print(boto3.Session().get_credentials().get_frozen_credentials().token)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod: where it is, which addresses it has by family, how its node end is called."""

    style: str
    namespace: Namespace
    addresses: dict[int, str]
    link: str

    @property
    def role(self) -> str:
        """The role that it may have."""
        return f"role-{self.style}"

    def curl(self, url: str, *arguments: str) -> str:
        """What an unmodified curl prints; empty when nobody answered."""
        return self.namespace.run("curl", "-sg", "-m", "10", *arguments, url, environment=QUIET).stdout

    def boto3(self, family: int) -> str:
        """The session token that an unmodified boto3 finds by itself: here the name of a role.

        An SDK must be told that it is to prefer IPv6; where, it knows itself.
        """
        mode = {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "ipv6" if family == 6 else "ipv4"}
        nowhere = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
        done = self.namespace.run(sys.executable, "-c", BOTO3, environment={**QUIET, **mode, **nowhere})
        return done.stdout.strip() or done.stderr[-500:]


class Lab:
    """A node with a pod of each style, and behind it the real metadata service; for as long as the context lasts."""

    def __init__(
        self,
        folder: Path,
        *,
        families: tuple[int, ...] = (4, 6),
        masquerade: bool = True,
        rp_filter: int = 0,
        backend: str = "nftables",
        styles: tuple[str, ...] = STYLES,
    ) -> None:
        self.families, self.backend = families, backend
        self._masquerade, self._rp_filter, self._styles = masquerade, rp_filter, styles
        self._folder, self._record = folder, folder / "record"
        self._stack = ExitStack()
        self._seen = 0
        self.pods: list[Pod] = []
        self.node: Namespace
        self.outside: Namespace
        self._sts: Process | None = None

    def __enter__(self) -> Self:
        with self._stack:
            self.node, self.outside = self.namespace("node"), self.namespace("imds")
            self._uplink()
            for number, style in enumerate(self._styles, 1):
                self.pods.append(getattr(self, f"_{style}")(number))
            self._serve_metadata()
            self._see_that_it_leaks()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def aims(self) -> list[tuple[Namespace, str]]:
        """Every pod with the metadata address of each family."""
        return [(pod.namespace, METADATA[family]) for pod in self.pods for family in self.families]

    def redirect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the redirect command on the node, whatever its outcome."""
        return self.node.run(*self.redirect_command(*arguments))

    def redirect_command(self, *arguments: str) -> list[str]:
        """The redirect command with the device and backend of this node."""
        flags = ("--redirect.device=mp0", f"--redirect.backend={self.backend}")
        return [sys.executable, "-m", "metaproxy", "redirect", *arguments, *flags]

    def apply(self) -> None:
        """Put the redirect in place; it must succeed."""
        done = self.redirect("apply")
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, *arguments: str) -> Process:
        """A process on the node that ends with the lab at the latest."""
        process = Process(
            self.node.command(*arguments), AWS_ACCESS_KEY_ID="ASIANODE000000000000", AWS_SECRET_ACCESS_KEY="s"
        )
        self._stack.callback(process.end, 9)
        return process

    port = PORT
    """Where the redirect leads and the agent listens, on its own addresses."""

    def agent(self, *flags: str) -> Process:
        """A real agent on the addresses to which the redirect leads; knows the pods from a file, unless told else."""
        if self._sts is None:
            self._sts = self.start(sys.executable, "-m", "tests.network.lab.sts")
        url = self._sts.wait_for("http://")
        self.declare()
        hosts = [OWN[4] if family == 4 else f"[{OWN[6]}]" for family in self.families]
        elsewhere = any(flag.startswith("--source.") for flag in flags)
        agent = self.start(
            *(sys.executable, "-m", "metaproxy", "run", "--log.format=json"),
            *([] if elsewhere else [f"--source.manifests={self._folder / 'pods.yaml'}"]),
            *(f"--server.listen={host}:{PORT}" for host in hosts),
            f"--tokens.key-file={self._folder / 'key'}",
            f"--sts.endpoint-url={url}",
            *("--sts.region=us-east-1", "--role-base-arn=arn:aws:iam::123456789012:role/", "--upstream.profile=none"),
            *flags,
        )
        agent.wait_for('"listening"', *([] if elsewhere else ['"manifests are read"']))
        return agent

    def declare(self) -> None:
        """Write the pods as they are now into the file from which an agent may know them."""
        aside = self._folder / "pods.aside"
        aside.write_text(self._manifests())
        aside.rename(self._folder / "pods.yaml")

    def records(self) -> list[dict[str, Any]]:
        """What the real service answered since the last time this was asked."""
        lines = self._record.read_text().splitlines()
        new, self._seen = lines[self._seen :], len(lines)
        return [json.loads(line) for line in new]

    def leaks(self) -> list[dict[str, Any]]:
        """Of these: TCP to port 80 that no process of the node asked for (those ask below /host)."""
        return [
            record
            for record in self.records()
            if record["protocol"] == "tcp" and record["port"] == 80 and not record["path"].startswith("/host")
            if record["to"] in {*METADATA.values(), *OWN.values()}
        ]

    def foreign(self, script: str) -> None:
        """Rules that are none of ours, as nft reads them."""
        self.node.shell(f"nft -f - <<'END'\n{script}\nEND")

    def namespace(self, role: str) -> Namespace:
        """A namespace that goes with the lab."""
        namespace = Namespace(role)
        self._stack.callback(namespace.close)
        ipv6 = int(6 not in self.families)
        # Duplicate detection would keep each new IPv6 address from answering for a second or two.
        namespace.shell(
            f"sysctl -qw net.ipv6.conf.all.disable_ipv6={ipv6} net.ipv6.conf.default.disable_ipv6={ipv6} "
            "net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0"
        )
        return namespace

    def _uplink(self) -> None:
        self.node.shell(
            f"for i in all default; do sysctl -qw net.ipv4.conf.$i.rp_filter={self._rp_filter}; done\n"
            "sysctl -qw net.ipv4.ip_forward=1\n"
            f"ip link add up0 type veth peer name eth0 netns {self.outside.name}; ip link set up0 up\n"
            # Not every kernel has dummy devices; a bridge without ports is a device that is always there.
            "ip link add mp0 type bridge; ip link set mp0 up"
        )
        self.outside.shell("ip link set eth0 up")
        if 4 in self.families:
            self.node.shell(f"ip addr add {NODE[4]}/24 dev up0; ip route add default via {BEHIND[4]}")
            owned = " ".join((METADATA[4], OWN[4], *NEIGHBOURS[4]))
            self.outside.shell(
                f"ip addr add {BEHIND[4]}/24 dev eth0; for a in {owned}; do ip addr add $a/32 dev lo; done\n"
                f"ip route add 10.244.0.0/16 via {NODE[4]}"
            )
        if 6 in self.families:
            self.node.shell(
                "sysctl -qw net.ipv6.conf.all.forwarding=1\n"
                f"ip addr add {NODE[6]}/64 dev up0 nodad; ip route add default via {BEHIND[6]}"
            )
            owned = " ".join((METADATA[6], OWN[6], *NEIGHBOURS[6]))
            self.outside.shell(
                f"ip addr add {BEHIND[6]}/64 dev eth0 nodad\n"
                f"for a in {owned}; do ip addr add $a/128 dev lo nodad; done\n"
                f"ip route add fd44::/16 via {NODE[6]}"
            )
        if self._masquerade:
            for family in self.families:
                nft, pods = ("ip", "10.244.0.0/16") if family == 4 else ("ip6", "fd44::/16")
                self.foreign(
                    f"table {nft} cni {{ chain post {{ type nat hook postrouting priority 100;\n"
                    f"{nft} saddr {pods} oifname up0 masquerade\n}}\n}}"
                )

    def _pod(self, style: str, number: int) -> Pod:
        every = {4: f"10.244.{number}.10", 6: f"fd44:{number}::10"}
        namespace = self.namespace(style)
        self.node.shell(
            f"ip link add pod{number} type veth peer name eth0 netns {namespace.name}\n"
            f"ip link set pod{number} address {GATEWAY_MAC} up"
        )
        namespace.shell("ip link set eth0 up")
        addresses = {family: every[family] for family in self.families}
        return Pod(style=style, namespace=namespace, addresses=addresses, link=f"pod{number}")

    def _bridge(self, number: int) -> Pod:
        pod = self._pod("bridge", number)
        self.node.shell(f"ip link add cbr0 type bridge; ip link set cbr0 up; ip link set {pod.link} master cbr0")
        for family, address in pod.addresses.items():
            gateway, length = (f"10.244.{number}.1", 24) if family == 4 else (f"fd44:{number}::1", 64)
            nodad = "nodad" if family == 6 else ""
            self.node.shell(f"ip addr add {gateway}/{length} dev cbr0 {nodad}")
            pod.namespace.shell(
                f"ip addr add {address}/{length} dev eth0 {nodad}; ip route add default via {gateway} dev eth0"
            )
        return pod

    def _point_to_point(self, pod: Pod) -> None:
        """One address on each side's routes; the gateway is an address that nobody has on the wire."""
        for family, address in pod.addresses.items():
            if family == 4:
                self.node.shell(f"ip route add {address}/32 dev {pod.link} scope link")
                pod.namespace.shell(
                    f"ip addr add {address}/32 dev eth0; ip route add 169.254.1.1 dev eth0 scope link\n"
                    "ip route add default via 169.254.1.1 dev eth0"
                )
            else:
                self.node.shell(
                    f"ip addr add fe80::1/64 dev {pod.link} nodad; ip route add {address}/128 dev {pod.link}"
                )
                pod.namespace.shell(
                    f"ip addr add {address}/128 dev eth0 nodad; ip route add default via fe80::1 dev eth0"
                )

    def _proxyarp(self, number: int) -> Pod:
        pod = self._pod("proxyarp", number)
        # Without the delay for a crowd of proxies: there is one.
        self.node.shell(f"sysctl -qw net.ipv4.conf.{pod.link}.proxy_arp=1 net.ipv4.neigh.{pod.link}.proxy_delay=0")
        self._point_to_point(pod)
        return pod

    def _policy(self, number: int) -> Pod:
        pod = self._pod("policy", number)
        self._point_to_point(pod)
        for family, address in pod.addresses.items():
            gateway = "169.254.1.1" if family == 4 else "fe80::1"
            pod.namespace.shell(f"ip neigh replace {gateway} lladdr {GATEWAY_MAC} dev eth0 nud permanent")
            self.node.shell(
                f"ip -{family} rule add pref 512 to {address} lookup main\n"
                f"ip -{family} rule add pref 1536 from {address} lookup 200\n"
                f"ip -{family} route add default via {BEHIND[family]} dev up0 table 200"
            )
        return pod

    def _serve_metadata(self) -> None:
        addresses = [a for f in self.families for a in (METADATA[f], OWN[f], *NEIGHBOURS[f])]
        recorder = Process(
            self.outside.command(sys.executable, "-m", "tests.network.lab.recorder", str(self._record), *addresses)
        )
        self._stack.callback(recorder.end, 9)
        recorder.wait_for("ready")

    def _see_that_it_leaks(self) -> None:
        """Without the redirect every pod reaches the real service: else its silence later would prove nothing."""
        for pod, address in self.aims:
            with pod.connect(address, timeout=PATIENCE) as end:
                assert MARK in ask(end, "/latest/before"), f"{pod.name} does not reach {address}"
        assert len(self.leaks()) == len(self.aims)

    def _manifests(self) -> str:
        documents = ["kind: Namespace\nmetadata: {name: shop, annotations: {iam.amazonaws.com/permitted: '.*'}}\n"]
        for pod in self.pods:
            ips = ", ".join(f"{{ip: '{address}'}}" for address in pod.addresses.values())
            first = next(iter(pod.addresses.values()))
            documents.append(
                f"kind: Pod\nmetadata: {{namespace: shop, name: {pod.style}, "
                f"annotations: {{iam.amazonaws.com/role: {pod.role}}}}}\n"
                f"status: {{phase: Running, podIP: '{first}', podIPs: [{ips}]}}\n"
            )
        return "---\n".join(documents)
