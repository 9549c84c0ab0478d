"""The addresses that everything turns on: where pods ask, and where the redirect leads them.

Knows: four constants, and why they are these. Must not know: anything else.
"""

METADATA_IPV4, METADATA_IPV6 = "169.254.169.254", "fd00:ec2::254"
"""EC2's, in both families."""

OWN_IPV4, OWN_IPV6 = "169.254.170.254", "fd00:a9fe:170::254"
"""The agent's own. A ULA in IPv6: a translation to a link-local address is never delivered. Never loopback: leading
pods there would need route_localnet, which opens the node's own loopback services to them (CVE-2020-8558)."""

METADATA = frozenset({METADATA_IPV4, METADATA_IPV6})
OWN = frozenset({OWN_IPV4, OWN_IPV6})

PORT = 8181
"""Where the agent listens on its own addresses: above 1023, because it runs without any capability."""
