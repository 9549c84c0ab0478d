"""The demo as a new user runs it."""

import asyncio
import contextlib
import re
import sys
import urllib.request

import pytest


@pytest.mark.timeout(180)
async def test_tour_once() -> None:
    """The tour ends with 0, and every line of its table is right."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "metaproxy", "demo", "--once", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()

    lines = [line for line in out.decode().splitlines() if line.startswith("  ")]
    assert process.returncode == 0
    assert len(lines) == 11
    assert all(line.startswith("  ok ") for line in lines)


@pytest.mark.timeout(180)
async def test_keeps_serving() -> None:
    """Without --once it goes on serving, prints lines to try that work, and ends with 0 when interrupted."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-m", "metaproxy", "demo", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    url = ""
    try:
        async with asyncio.timeout(150):
            async for line in process.stdout:
                if match := re.search(rb"curl --interface 127.0.0.6 (http://\S+)/metaproxy/explain", line):
                    url = match[1].decode()
                if b"Ctrl-C" in line:
                    break
        answer = await asyncio.to_thread(_read, f"{url}/metaproxy/explain")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()

    # Asked from 127.0.0.1, which is no pod of the demo.
    assert "no live pod of this node has it" in answer
    assert process.returncode == 0


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return str(response.read(), "ascii")
