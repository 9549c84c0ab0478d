"""Load: wrk against a server, in the three ways in which clients ask.

Knows: wrk, its Lua, its report.
Must not know: which server it is.
"""

import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.parts import LOAD_CORE, cpu, pinned

CONNECTIONS = 16
LIST = "/latest/meta-data/iam/security-credentials/"

_PER_SECOND = re.compile(r"Requests/sec:\s+([0-9.]+)")
_QUANTILE = re.compile(r"^\s+(50|99)%\s+([0-9.]+)(us|ms|s)$", re.MULTILINE)
_ERRORS = re.compile(r"Socket errors|Non-2xx")
_UNIT = {"us": 0.001, "ms": 1.0, "s": 1000.0}

# Each process of wrk has one connection, so the requests of one client follow each other. A sequence is timed from one
# token request to the next: connecting, three answers and closing. LuaJIT's clock, because wrk counts single requests.
_SEQUENCE = """
local ffi = require("ffi")
ffi.cdef[[ typedef struct {{ long s; long n; }} ts; int clock_gettime(int, ts *); ]]
local t, i, last, out = ffi.new("ts"), 0, nil, io.open("{out}", "w")
local put, list, keys
init = function(args)  -- before this, wrk knows no Host to send
  put = wrk.format("PUT", "/latest/api/token", {{["X-aws-ec2-metadata-token-ttl-seconds"]="21600"}})
  list = wrk.format("GET", "{list}", {{["X-aws-ec2-metadata-token"]="{token}"}})
  keys = wrk.format("GET", "{list}{role}", {{["X-aws-ec2-metadata-token"]="{token}", ["Connection"]="close"}})
end
request = function()
  i = i + 1
  if i % 3 == 1 then
    ffi.C.clock_gettime(1, t)
    local now = tonumber(t.s) * 1e3 + tonumber(t.n) / 1e6
    if last then out:write(string.format("%.3f\\n", now - last)) end
    last = now
    return put
  end
  return i % 3 == 2 and list or keys
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Rate for each second, milliseconds at the median and the 99th percentile, microseconds of processor for each."""

    rate: float
    p50: float
    p99: float
    cpu: float


def sequence(url: str, pid: int, *, token: str, role: str, seconds: float) -> Measured:
    """The SDK's way: connect, token, role list, credentials, close."""
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        for number in range(CONNECTIONS):
            script = Path(folder, f"{number}.lua")
            script.write_text(_SEQUENCE.format(out=f"{folder}/{number}.out", list=LIST, token=token, role=role))
            commands.append([*pinned(LOAD_CORE), "wrk", "-t1", "-c1", f"-d{seconds:g}s", f"-s{script}", url])

        def run() -> str:
            running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
            return "".join(one.communicate()[0] for one in running)

        spent, report = _counting(pid, run)
        times = sorted(float(line) for out in Path(folder).glob("*.out") for line in out.read_text().split())
    _refuse_errors(report)
    return Measured(
        rate=len(times) / seconds,
        p50=statistics.median(times),
        p99=times[int(len(times) * 0.99)],
        cpu=spent / len(times) * 1e6,
    )


def requests(url: str, pid: int, *, token: str, role: str, seconds: float, close: bool) -> Measured:
    """Credentials again and again, on kept connections or each on its own."""
    headers = ["-H", f"X-aws-ec2-metadata-token: {token}", *(["-H", "Connection: close"] if close else [])]
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", *headers]
    command = [*pinned(LOAD_CORE), "wrk", *options, f"{url}{LIST}{role}"]
    spent, report = _counting(pid, lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    _refuse_errors(report)
    quantiles = {name: float(value) * _UNIT[unit] for name, value, unit in _QUANTILE.findall(report)}
    found = _PER_SECOND.search(report)
    assert found is not None, report
    rate = float(found[1])
    return Measured(rate=rate, p50=quantiles["50"], p99=quantiles["99"], cpu=spent / (rate * seconds) * 1e6)


def _counting(pid: int, run: Callable[[], str]) -> tuple[float, str]:
    before = cpu(pid)
    report = run()
    return cpu(pid) - before, report


def _refuse_errors(report: str) -> None:
    """A rate of refusals would be no rate."""
    if _ERRORS.search(report):
        raise RuntimeError(f"the server did not answer everything with 200:\n{report}")
