"""Runs the matrix: every client in every situation, with tokens optional and required.

    python -m tests.conformance                     compare with what is committed; exit 1 when anything is wrong
    python -m tests.conformance --write             write results.json, and then `make docs` writes docs/clients.md
    python -m tests.conformance --latest            the newest versions instead of the pinned ones; nothing is compared
    python -m tests.conformance --install           install the clients, and run nothing
    python -m tests.conformance --client boto3 --situation cached

Knows: what is run beside what, and what is said of it.
Must not know: the course of a situation.
"""

import argparse
import asyncio
import gc
import os
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.conformance import judging, redirected, registry, results
from tests.conformance.calls import Calls
from tests.conformance.cell import Cell
from tests.conformance.exchanges import Step
from tests.conformance.judging import Expected
from tests.conformance.post import Post
from tests.conformance.proving import Prover
from tests.conformance.registry import Client, Installed
from tests.conformance.results import Call, Got, Result, Run
from tests.conformance.situations import REDIRECTED, SITUATIONS, Situation
from tests.conformance.stage import Stage
from tests.conformance.tally import Tally
from tests.fakes.sts import FakeSts
from tests.fakes.upstream_imds import FakeUpstream

TOKENS = ("optional", "required")
POSTS = 24
"""Cells at once: most of them are waiting."""

MOST_TAKEN = 6
"""Cells that may be lost to the machine: one in a hundred. With more of them the run says nothing of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A cell to come."""

    number: int
    client: Client
    situation: Situation
    tokens: str


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    chains = registry.toolchains()
    options = _options(arguments, [client.name for chain in chains for client in chain.clients])
    excused = registry.excuses(chains)
    if options.latest:
        chains = registry.toolchains(latest=True)
    if options.client:
        chains = [chain for chain in chains if {client.name for client in chain.clients} & set(options.client)]
    installed = registry.install(chains, latest=options.latest)
    for name, seconds in installed.seconds.items():
        print(f"==== {name}: installed within {seconds:.0f} s", flush=True)
    wanted = [
        client for chain in chains for client in chain.clients if not options.client or client.name in options.client
    ]
    clients = [replace(client, version=installed.versions.get(client.name, client.version)) for client in wanted]
    present = [client for client in clients if client.name not in installed.missing]
    outcomes, wrong, run = ([], [], None) if options.install else _outcomes(present, options)
    outcomes += [_missing(client) for client in clients if client not in present]
    if options.write:
        whole = not (options.client or options.situation)
        kept = {} if whole else results.read()
        results.write(list((kept | {one.key: one for one in outcomes}).values()), run if whole else results.read_run())
    elif not (options.latest or options.install):
        wrong += results.differences([one for one in outcomes if one.got is not Got.MISSING], results.read())
    wrong += _said_of_missing({one.name: installed.missing[one.name] for one in clients if one not in present}, excused)
    if options.latest:
        _say_what_is_newest(wanted, installed)
    for line in wrong:
        print(f"WRONG: {line}", flush=True)
    good = [client for client in present if not any(line.startswith(f"{client.name}, ") for line in wrong)]
    print(f"==== {len(good)} of {len(clients)} clients {'installed' if options.install else 'as they should be'}")
    return 1 if wrong else 0


def _options(arguments: Sequence[str] | None, clients: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Run the matrix of clients.")
    parser.add_argument("--install", action="store_true", help="install the clients, and run nothing")
    parser.add_argument("--write", action="store_true", help="write results.json instead of comparing with it")
    parser.add_argument("--latest", action="store_true", help="the newest versions of all clients")
    parser.add_argument("--verbose", action="store_true", help="tell of each cell what the client said and asked")
    parser.add_argument("--client", action="append", choices=clients, help="only this one; may be repeated")
    named = [*SITUATIONS, *redirected.ROUTES]
    parser.add_argument("--situation", action="append", choices=named, help="only this one; may be repeated")
    options = parser.parse_args(arguments)
    if options.write and (options.latest or options.install):
        parser.error("--write is for the pinned versions, and for what was run")
    return options


def _outcomes(clients: Sequence[Client], options: argparse.Namespace) -> tuple[list[Result], list[str], Run]:
    """Run the cells of these clients; what came of each, what is wrong with it, and what all of it took."""
    situations = [one for one in SITUATIONS.values() if not options.situation or one.name in options.situation]
    cells = [(situation, tokens, client) for situation in situations for tokens in TOKENS for client in clients]
    cells.sort(key=lambda cell: -cell[0].seconds(cell[2].name))
    jobs = [
        Job(number=number, client=client, situation=situation, tokens=tokens)
        for number, (situation, tokens, client) in enumerate(cells)
    ]
    began, used, load = time.monotonic(), _cpu_seconds(), os.getloadavg()[0]
    tally = Tally()
    outcomes, wrong = asyncio.run(_run(jobs, tally, verbose=options.verbose))
    behind = not options.situation or not set(redirected.ROUTES).isdisjoint(options.situation)
    if behind and tally.over:
        wrong.append("real redirect: it was left out, as too many cells came to nothing before")
    for tokens in TOKENS if behind and not tally.over else ():
        judge = partial(_judge_redirected, tokens, outcomes, wrong, options.verbose)
        try:
            asyncio.run(redirected.run(clients, tokens, judge))
        except Exception as error:  # noqa: BLE001  what has been found so far must not be lost
            wrong.append(f"real redirect, {tokens}: it could not be played to its end: {_words(error)}")
    wrong.extend(tally.words())
    run = Run(
        cells=len(outcomes),
        seconds=round(time.monotonic() - began),
        cpu_seconds=round(_cpu_seconds() - used),
        cores=len(os.sched_getaffinity(0)),
        load=round(load, 1),
    )
    if run.too_long:
        wrong.append(f"the run: more than {results.TEN_MINUTES} s, of a machine that had cores to spare when it began")
    print(f"==== {run.words}", flush=True)
    return outcomes, wrong, run


def _cpu_seconds() -> float:
    """What this process and those that it has waited for have used of the machine's cores."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _words(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_words(one) for one in error.exceptions)
    return f"{type(error).__name__}: {str(error)[:500]}"


def _missing(client: Client) -> Result:
    return Result(client=client.name, version=client.version, situation="", tokens="", got=Got.MISSING)


def _said_of_missing(missing: Mapping[str, str], excused: Mapping[str, str]) -> list[str]:
    """What is wrong with those that are missing: nothing with whom is excused by name."""
    for name, why in missing.items():
        print(f"MISSING: {name}: {why}{f' (excused: {excused[name]})' if name in excused else ''}", flush=True)
    return [f"{name}, not installed, and not excused: {why}" for name, why in missing.items() if name not in excused]


def _say_what_is_newest(pinned: Sequence[Client], installed: Installed) -> None:
    """Which versions were tried in place of the pinned ones, and of which clients none could be."""
    for client in pinned:
        version = installed.versions.get(client.name)
        kept = f", NOT THE NEWEST: {installed.kept[client.name]}" if client.name in installed.kept else ""
        print(f"LATEST: {client.name}: {client.version} is pinned, {version or 'none'} was tried{kept}", flush=True)


async def _run(jobs: Sequence[Job], tally: Tally, *, verbose: bool) -> tuple[list[Result], list[str]]:
    """Play all of them, so many at once; what came of each, and what is wrong with it."""
    outcomes: list[Result] = []
    wrong: list[str] = []
    waiting = deque(jobs)
    taken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="metaproxy-matrix-") as name:
        async with (
            FakeSts() as sts,
            FakeUpstream() as upstream,
            Stage(Path(name), sts, upstream.url) as stage,
        ):

            async def work(number: int) -> None:
                async with Post(number, Prover(sts)) as post:
                    while waiting:
                        # From both ends: those that mostly wait leave the machine to those that do not.
                        job = waiting.popleft() if number % 2 else waiting.pop()
                        async with stage.turns:
                            if not tally.plays(job.client.name):
                                continue
                            result, faults, late = await _play(stage, post, job, tally, verbose=verbose)
                        if faults:
                            print(f"     the machine was late by {late:.2f} s while it was held", flush=True)
                        if judging.taken(result, faults, late):
                            taken.append(f"{', '.join(result.key)}: late by {late:.2f} s while the request was held")
                            continue
                        outcomes.append(result)
                        wrong.extend(f"{', '.join(result.key)}: {fault}" for fault in faults)

            # What a full collection takes of a busy machine is a second: all clients' traffic would wait for it.
            gc.collect()
            gc.freeze()
            async with asyncio.TaskGroup() as group:
                for number in range(POSTS):
                    group.create_task(work(number), name=f"post {number}")
        wrong.extend(f"agent: it ended with {code}: {log}" for code, log in stage.codes if code)
    for line in taken:
        print(f"LOST TO THE MACHINE: {line}", flush=True)
    if len(taken) > MOST_TAKEN:
        wrong.append(f"the machine: {len(taken)} cells were lost to it, and no more than {MOST_TAKEN} may be")
    usual = 1_000 * stage.lateness.total(0.0) / max(1, len(stage.lateness.looks))
    print(
        f"==== the machine was late by {usual:.0f} ms as a rule, and by {stage.lateness.worst:.2f} s at most",
        flush=True,
    )
    return outcomes, wrong


async def _play(stage: Stage, post: Post, job: Job, tally: Tally, *, verbose: bool) -> tuple[Result, list[str], float]:
    """What came of the cell, what is wrong with it, and how late the machine was while its role list was held."""
    client, situation = job.client, job.situation
    cell = Cell(stage, post, client, number=job.number, tokens=job.tokens, region=situation.region)
    broken, began = [], asyncio.get_running_loop().time()
    try:
        await situation.play(cell)
    except Exception as error:  # noqa: BLE001  one cell that cannot be played must not cost the outcome of all others
        meanwhile = f"the machine was late by {stage.lateness.total(began):.2f} s in all meanwhile"
        broken = [f"it could not be played: {_words(error)} ({meanwhile})"]
    finally:
        await cell.close()
    if broken or any(call.got is Got.HUNG for call in cell.calls):
        tally.lose(client.name)
    calls = [*cell.calls, Call(Got.NOTHING)]
    if broken:
        print(f"---- {client.name}, {situation.name}, {job.tokens}: {broken[0]}", flush=True)
    result, faults = _judged(
        client, situation.name, job.tokens, situation.expected, calls[:-1] or calls, verbose=verbose
    )
    lists = [one for one in calls[0].requests if one.step is Step.LIST]
    late = max((stage.lateness.total(one.asked, one.asked + one.after) for one in lists), default=0.0)
    return result, broken or faults, late


def _judge_redirected(
    tokens: str, outcomes: list[Result], wrong: list[str], verbose: bool, client: Client, route: str, calls: Calls
) -> None:
    result, faults = _judged(client, route, tokens, REDIRECTED[route].expected, calls.calls, verbose=verbose)
    if not result.requests:
        faults.append("the agent was not asked from its address")
    outcomes.append(result)
    wrong.extend(f"{', '.join(result.key)}: {fault}" for fault in faults)


def _judged(
    client: Client, situation: str, tokens: str, expected: Expected, calls: Sequence[Call], *, verbose: bool
) -> tuple[Result, list[str]]:
    result = results.of(client, situation, tokens, calls)
    faults = judging.faults(result, expected, client)
    if verbose or faults:
        print(f"---- {', '.join(result.key)}: {result}", flush=True)
        for call in calls:
            asked = "".join(f"\n     {request}" for request in call.requests)
            print(f"     {call.got} after {call.seconds:.2f} s{asked}\n     {call.said[-1500:]}", flush=True)
    return result, faults


if __name__ == "__main__":
    sys.exit(main())
