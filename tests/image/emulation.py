"""Lets this machine run programs of another platform: by QEMU, in the way that Debian's package has ready.

Knows: where the kernel is told of interpreters, and where Debian keeps what to tell it.
Must not know: what is run.
"""

import subprocess
from pathlib import Path

KERNEL = Path("/proc/sys/fs/binfmt_misc")
READY = Path("/usr/lib/binfmt.d")


def obstacle(machine: str) -> str:
    """Why this machine cannot run programs of that one (the kernel's name of it); empty when it can.

    Where nobody has told the kernel yet it is told, as it would have been at a start with systemd, and keeps it.
    """
    name = f"qemu-{machine}"
    told, ready = KERNEL / name, READY / f"{name}.conf"
    if told.exists():
        return ""
    if not ready.exists():
        return f"no {ready}: qemu-user-static is not installed"
    if not (KERNEL / "register").exists():
        command = ["mount", "-t", "binfmt_misc", "binfmt_misc", str(KERNEL)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip()
    try:
        (KERNEL / "register").write_text(ready.read_text())
    except OSError as error:
        return f"{name} cannot be registered: {error}"
    return ""
