"""The guards around every test: each must be able to fail, or it guards nothing."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

CASES = """
import asyncio, os, time
import pytest
import metaproxy.objects

def of_ours(source):
    exec(compile(source, metaproxy.objects.__file__, "exec"), {})

async def test_fine():
    await asyncio.create_task(asyncio.sleep(0))

async def test_task_left():
    asyncio.create_task(asyncio.sleep(3600))

async def test_exception_fallen():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)

async def test_never_awaited():
    asyncio.sleep(0)

async def test_blocking():
    of_ours("import time; time.sleep(0.001)")

async def test_blocking_by_the_test_itself():
    time.sleep(0.001)

def test_environment():
    assert not {"AWS_PROFILE", "KUBECONFIG", "HTTPS_PROXY", "METAPROXY_NODE_NAME"} & os.environ.keys()
    assert not os.path.exists(os.environ["AWS_CONFIG_FILE"])
"""


def test_each_guard_fails_what_it_should(tmp_path: Path) -> None:
    """Leftovers, fallen exceptions, un-awaited coroutines and blocking calls fail; nothing of the machine is seen."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_cases.py").write_text(CASES)
    config = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    outside = {"AWS_PROFILE": "p", "KUBECONFIG": "k", "HTTPS_PROXY": "http://127.0.0.1:9", "METAPROXY_NODE_NAME": "n"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *config, "-q", "-rA", str(tmp_path)],
        env={**os.environ, **outside},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    summary = run.stdout.partition("short test summary info")[2]
    said = {(line.split()[0], line.split("::")[1].split()[0]) for line in summary.splitlines() if "::test_" in line}
    assert {name for word, name in said if word in {"FAILED", "ERROR"}} == {
        "test_task_left",
        "test_exception_fallen",
        "test_never_awaited",
        "test_blocking",
    }, run.stdout
    assert {"test_fine", "test_blocking_by_the_test_itself", "test_environment"} < {name for _, name in said}
