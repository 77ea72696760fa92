"""Figures of the lab's cases: one JSON line each, for the docs. Nothing in them is a limit."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .host import Host

FILE = Path(os.environ.get("LAB_FIGURES", "lab-figures.jsonl"))


def note(what: str, **fields: object) -> None:
    """Print and keep a line; the case is pytest's own."""
    case = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
    line = json.dumps({"case": case, "what": what, **fields})
    print(line)
    with FILE.open("a") as file:
        file.write(line + "\n")


class Permission:
    """For how long two-primaries was allowed, as ``drbdsetup show`` on one host had it."""

    def __init__(self, host: Host, resource: str) -> None:
        self._host = host
        self._command = (
            f"while :; do n=$(drbdsetup show {resource} | grep -c 'allow-two-primaries.*yes'); "
            "read up rest </proc/uptime; echo $n $up; sleep 0.1; done"
        )
        self._text = ""

    def __enter__(self) -> Permission:
        self._process = self._host.start(self._command)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._text = self._process.communicate(timeout=30)[0].decode()

    def seconds(self) -> float:
        """Of the host's clock, exact to the distance of two looks."""
        return allowed(self._text)


def allowed(text: str) -> float:
    """Seconds between looks that begin with "1", from lines of a look and an uptime."""
    looks = [line.split() for line in text.splitlines() if len(line.split()) == 2]
    pairs = zip(looks, looks[1:], strict=False)
    return sum(float(after[1]) - float(before[1]) for before, after in pairs if before[0] == "1")
