"""One program under many names: the fault that is due, then the tool."""

import fcntl
import os
import signal
import sys
from collections.abc import Callable

from . import drbdadm, drbdsetup, lvm, xl
from .state import HOST, WORLD, die, load, save

NOTHING = ("modprobe", "systemctl", "defineXML")
TOOLS: dict[str, Callable[[list[str]], None]] = {
    **{name: getattr(lvm, name) for name in ("lvs", "vgs", "lvcreate", "lvextend", "lvremove", "lvchange")},
    "drbdadm": drbdadm.drbdadm,
    "drbdmeta": drbdadm.drbdmeta,
    "drbdsetup": drbdsetup.drbdsetup,
    "xl": xl.xl,
}


def fault(line: str) -> str:
    number = int(load("calls", 0)) + 1
    save("calls", number)
    with (WORLD / "log").open("a") as log:
        log.write(f"{number} {HOST} {line}\n")
    plan = (WORLD / "fault").read_text().split(None, 1) if (WORLD / "fault").exists() else []
    if plan and plan[0] == str(number):
        return plan[1].strip()
    hit = bool(plan) and plan[0] in ("fail", "power") and plan[1].strip() in f"{HOST} {line}"
    return plan[0] if hit else ""


def ssh(args: list[str]) -> None:
    """The old server of tests/unit/fakes/oldserver.py: its commands run here, with its tools."""
    if args[0] == "-G":
        print("port 22")
        return
    assert args[:2] == ["-o", "BatchMode=yes"] and args[-3:-1] == ["--", "root@old"], args
    if (WORLD / "old.off").exists():
        die("ssh: connect to host old port 22: No route to host", 255)
    path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    assert args[-1].startswith(f"env {path} LC_ALL=C sh -c "), args[-1]
    os.environ["PATH"] = "/usr/bin:/bin"
    os.execv("/bin/sh", ["sh", "-c", args[-1].replace(path, f"PATH={WORLD}/old/bin:/usr/bin:/bin", 1)])


def main() -> None:
    name, args = os.path.basename(sys.argv[0]), sys.argv[1:]
    with (WORLD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wrong = fault(" ".join([name, *args]))
        if wrong == "power":
            (WORLD / f"{HOST}.off").touch()
            wrong = "kill"
        if wrong == "kill":
            os.kill(os.getppid(), signal.SIGKILL)
            sys.exit(1)
        if wrong == "fail":
            die("told to fail", 5)
        if name == "ssh":
            fcntl.flock(lock, fcntl.LOCK_UN)  # it takes its time
            ssh(args)
        elif name not in NOTHING:
            TOOLS[name](args)
        if wrong == "kill-after":
            os.kill(os.getppid(), signal.SIGKILL)
