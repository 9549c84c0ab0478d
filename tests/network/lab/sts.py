"""The tests' STS in a namespace of its own choice: the session token that it gives names the role.

python -m tests.network.lab.sts
"""

import asyncio
import re

from tests.fakes.sts import FakeSts, Step

_ROLE = re.compile(r":assumed-role/([^/]+)/")
_TOKEN = re.compile(r"<SessionToken>[^<]*<")


def _mark(text: str) -> str:
    role = _ROLE.search(text)
    return _TOKEN.sub(f"<SessionToken>{role[1]}<", text) if role else text


async def main() -> None:
    """Serve until ended."""
    async with FakeSts() as sts:
        sts.always = Step(edit=_mark)
        print(sts.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
