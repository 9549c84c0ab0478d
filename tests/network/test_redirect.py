"""The redirect on a real kernel, in a network namespace of the test's own: put in place, repaired, taken away."""

import subprocess
import sys

SNAPSHOT = "nft list ruleset; ip rule; ip -6 rule; ip route; ip -6 route show table main; ip -br addr"
CYCLE = f"""
set -e
ip link set lo up; ip link add mp0 type bridge; ip link set mp0 up
nft add table ip foreign; nft 'add chain ip foreign c {{ type nat hook prerouting priority -100; }}'
m() {{ "{sys.executable}" -m metaproxy redirect "$@" --redirect.device mp0; }}
before=$({SNAPSHOT})
m apply; m check
once=$({SNAPSHOT})
m apply; m check
[ "$once" = "$({SNAPSHOT})" ]
nft delete table ip metaproxy
if m check; then echo "a wiped table was not seen"; exit 1; fi
m apply; m check
ip addr del 169.254.170.254/32 dev mp0
if m check; then echo "a deleted address was not seen"; exit 1; fi
m apply; m check
ip -6 rule del pref 2
if m check; then echo "a deleted routing rule was not seen"; exit 1; fi
m apply; m check
"{sys.executable}" -m metaproxy redirect watch --redirect.device mp0 >/dev/null 2>&1 & watcher=$!
for wipe in "nft flush ruleset" "ip rule del pref 2" "ip addr del 169.254.170.254/32 dev mp0"; do
    $wipe
    for turn in $(seq 200); do if m check >/dev/null; then break; fi; done
    m check
done
nft add table ip foreign; nft 'add chain ip foreign c {{ type nat hook prerouting priority -100; }}'
kill -9 $watcher; m check
m remove; m remove
[ "$before" = "$({SNAPSHOT})" ]
"""


def test_apply_is_idempotent_check_sees_what_is_gone_and_remove_leaves_nothing() -> None:
    """Foreign rules stay as they were; whoever watches repairs, and removes nothing when killed."""
    done = subprocess.run(["unshare", "-n", "bash", "-c", CYCLE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
