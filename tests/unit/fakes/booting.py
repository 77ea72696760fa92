"""A host that boots or shuts down, with one VM of its own, and the peer's answers."""

import os
from pathlib import Path
from typing import Any

import pytest

from xenhelper import (
    autostart,
    boot,
    insync,
    paths,
    statefile,
)
from xenhelper.drbd import bringup, events, verbs
from xenhelper.errors import PeerUnreachable
from xenhelper.peer import client
from xenhelper.run import Result
from xenhelper.xen import domains

T = 1_700_000_000.0


def times(ran: float | None = None, let_go: float | None = None, last_ran: str = "alice") -> dict[str, str]:
    found = {"last_ran": last_ran}
    if ran is not None:
        found["ran_at"] = insync.stamp(ran)
    if let_go is not None:
        found["let_go_at"] = insync.stamp(let_go)
    return found


def there(**more: Any) -> dict[str, object]:
    return {"domains": [], **more}


class Host:
    """``answers`` by verb; ``drbd`` what was done to it."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, object] | Exception] = {}
        self.asked: list[str] = []
        self.running: list[domains.Domain] = []
        self.programs: list[list[str]] = []
        self.states: dict[str, events.Resource] = {}
        self.drbd: list[str] = []


def booting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The modules find it until the test ends."""
    made = Host()
    for name in ("STATE", "RUN", "RESOURCES", "VMS", "LOCKS", "PERMITS", "STOPPING"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    me = os.uname().nodename
    record = {"vm": "web1", "config": "/etc/xen/web1.cfg", "peer": "bob", "resources": "web1-xvda"}
    statefile.write(f"{paths.VMS}/web1", {**record, "last_ran": me})
    row = {"resource": "web1-xvda", "vm": "web1", "minor": "1000", "host": me, "peer": "bob"}
    statefile.write(f"{paths.RESOURCES}/web1-xvda", row)
    state = events.Resource("web1-xvda")
    state.minor, state.role, state.disk, state.connection = 1000, "Secondary", "UpToDate", "Connected"
    state.peer_role, state.peer_disk = "Secondary", "UpToDate"
    made.states["web1-xvda"] = state

    def ask(peer: str, verb: str, args: dict[str, object], timeout: float = 0) -> dict[str, object]:
        made.asked.append(verb)
        answer = made.answers.get(verb, PeerUnreachable("silent"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def program(argv: list[str], **_: object) -> Result:
        made.programs.append(argv)
        return Result(0, "stopping\n", "")

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr(autostart, "run", program)
    monkeypatch.setattr(boot, "run", program)
    monkeypatch.setattr(domains, "find", lambda vm: made.running)
    monkeypatch.setattr(events, "snapshot", lambda *_: made.states)
    monkeypatch.setattr(events, "one", made.states.get)
    monkeypatch.setattr(verbs, "generation", lambda minor, timeout=0: (0xAB, 0))
    monkeypatch.setattr(verbs, "outdate", lambda minor: made.drbd.append(f"outdate {minor}"))
    monkeypatch.setattr(bringup, "adm", lambda vm, *words, **_: made.drbd.append(" ".join(words)))
    return made
