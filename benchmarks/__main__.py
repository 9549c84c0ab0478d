"""`python -m benchmarks`: measure, print, write docs/performance.md."""

import argparse
import asyncio
import os
import platform
import statistics
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks import life as lives
from benchmarks import load
from benchmarks.life import Life, each_more, median, surroundings
from benchmarks.load import LIST, Measured
from benchmarks.parts import LOAD_CORE, Agent, missing, nginx

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
ROLE = "role-0"
WAYS = {
    "SDK sequence": "connect, token, role list, credentials, close",
    "keep-alive": "credentials over kept connections",
    "one connection each": "credentials, a connection for each request",
}
Rounds = dict[str, list[tuple[Measured, Measured]]]


def main() -> int:
    """The command: 0 when measured, whatever came out; 2 when something is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    options = parser.parse_args()
    if packages := missing():
        print(f"benchmarks: missing: {', '.join(packages)} (apt-get install {' '.join(packages)})", file=sys.stderr)
        return 2
    if os.cpu_count() == 1:
        print("benchmarks: server and load need a core each", file=sys.stderr)
        return 2
    os.sched_setaffinity(0, {LOAD_CORE})
    rounds = asyncio.run(_load(options.rounds, options.seconds))
    text = _page(rounds, asyncio.run(lives.measure(options.rounds)), options.rounds)
    print(text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


async def _load(count: int, seconds: float) -> Rounds:
    async with surroundings(lives.PODS) as (api, sts, folder):
        # wrk has no choice of source address: the pod that it is has the address that the kernel picks.
        api.create_pod("team", "wrk", node="bench-node", annotations={"iam.amazonaws.com/role": ROLE})
        api.set_pod_status("team", "wrk", ["127.0.0.1"])
        agent = Agent(api, sts, folder)
        try:
            await lives.ready(agent)
            return await asyncio.to_thread(_rounds, agent, folder, count, seconds)
        finally:
            agent.close()


def _rounds(agent: Agent, folder: Path, count: int, seconds: float) -> Rounds:
    token, token_headers = _fetch(agent.url, "/latest/api/token", method="PUT")
    paths = (LIST, f"{LIST}{ROLE}")
    answers = [("/latest/api/token", token, token_headers)]
    answers += [(path, *_fetch(agent.url, path, token=token.decode())) for path in paths]
    ways: dict[str, Callable[[str, int], Measured]] = {
        "SDK sequence": lambda url, pid: load.sequence(url, pid, token=token.decode(), role=ROLE, seconds=seconds),
        "keep-alive": lambda url, pid: load.requests(
            url, pid, token=token.decode(), role=ROLE, seconds=seconds, close=False
        ),
        "one connection each": lambda url, pid: load.requests(
            url, pid, token=token.decode(), role=ROLE, seconds=seconds, close=True
        ),
    }
    rounds: Rounds = {way: [] for way in ways}
    with nginx(folder, answers) as (other, worker):
        for number in range(count + 1):
            for way, ask in ways.items():
                pair = ask(agent.url, agent.process.pid), ask(other, worker)
                if number:  # the first round only warms up
                    rounds[way].append(pair)
                    print(f"round {number}, {way}: {pair[0].rate:,.0f}/s, nginx {pair[1].rate:,.0f}/s", flush=True)
    return rounds


def _fetch(url: str, path: str, *, method: str = "GET", token: str = "") -> tuple[bytes, dict[str, str]]:
    headers = {"X-aws-ec2-metadata-token": token} if token else {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
    request = urllib.request.Request(f"{url}{path}", method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        kept = {name: value for name, value in response.headers.items() if name.lower().startswith("x-aws")}
        return response.read(), kept


def _page(rounds: Rounds, life: Life, count: int) -> str:
    rows: list[str] = []
    targets: list[tuple[str, float, str, bool, str]] = []
    for way, pairs in rounds.items():
        mine, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        ratio = statistics.median(a.rate / b.rate for a, b in pairs)
        rows.append(
            f"| {way} | {ratio:.2f} | {_mid(mine, 'rate'):,.0f} | {_mid(other, 'rate'):,.0f} | "
            f"{_mid(mine, 'cpu'):.0f} | {_mid(other, 'cpu'):.0f} | {_mid(mine, 'p50'):.1f} / {_mid(mine, 'p99'):.1f} | "
            f"{_mid(other, 'p50'):.1f} / {_mid(other, 'p99'):.1f} |"
        )
        least = {"SDK sequence": 0.28, "keep-alive": 0.18, "one connection each": 0.30}[way]
        targets.append((f"{way}, of nginx's rate", ratio, f"≥ {least:.2f}", ratio >= least, ".2f"))
        if way == "SDK sequence":
            tail = statistics.median(a.p99 / b.p99 for a, b in pairs)
            targets.append(("p99 of the SDK sequence, as multiple of nginx's", tail, "≤ 3", tail <= 3, ".2f"))
    more = each_more(life.resident)
    for name, value, most, form in (
        ("watch event → credentials ready, beyond STS, ms", median(life.event), 10, ".1f"),
        ("110 pods, 30 roles, first event → last key, ms", median(life.full_node), 250, ".0f"),
        ("exec → ready with 110 pods, ms", median(life.ready), 1200, ".0f"),
        ("resident with 110 pods, MiB", life.resident[lives.PODS], 85, ".1f"),
        ("resident for each pod more, KiB", more, 24, ".1f"),
    ):
        targets.append((name, value, f"≤ {most}", value <= most, form))
    lines = [
        "# Performance",
        "",
        "Written by `make bench`: one run on one machine, shared and noisy; ratios carry over, single figures do not.",
        "",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores:",
        "the server on one, the load on the other.",
        f"Medians of {count} rounds, in each of which metaproxy and nginx (one worker, the",
        "same bytes from files, no access log) were asked in turn with 16 connections and a body of about 1.1 kB;",
        "110 pods, 30 roles.",
        "",
        "| measured | value | wanted | |",
        "|---|---|---|---|",
        *(
            f"| {name} | {value:{form}} | {bound} | {'met' if met else '**not met**'} |"
            for name, value, bound, met, form in targets
        ),
        "",
        "## Load",
        "",
        "| | of nginx's rate | per second | nginx | CPU µs each | nginx | p50 / p99 ms | nginx |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        *(f"- {way}: {meaning}." for way, meaning in WAYS.items()),
        "- A sequence is timed from one token request to the next of the same client, connecting and closing included.",
        "",
        "## Life",
        "",
        f"STS takes {lives.STS * 1000:.0f} ms. The API server is the tests' fake, on the load's core.",
        "",
        "| | median | worst |",
        "|---|---|---|",
        _spread(
            f"watch event → answer of a request that was waiting, beyond STS, ms ({len(life.event)} pods)", life.event
        ),
        _spread("110 pods and 30 roles at once: first event → last key, ms", life.full_node),
        _spread("exec → ready, ms", life.ready),
        _spread("exec → first correct answer, ms", life.answer),
        "",
        "| pods | resident MiB | proportional MiB |",
        "|---|---|---|",
        *(f"| {pods} | {life.resident[pods]:.1f} | {life.proportional[pods]:.1f} |" for pods in life.resident),
    ]
    return "\n".join(lines) + "\n"


def _spread(name: str, values: list[float]) -> str:
    return f"| {name} | {median(values):.1f} | {max(values):.1f} |"


def _mid(measured: list[Measured], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in measured))


if __name__ == "__main__":
    sys.exit(main())
