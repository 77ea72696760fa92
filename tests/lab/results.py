"""What each case of the lab came to: one JSON line a run of a case, kept in the tree, so that
a run on another machine goes on where this one was.

A line stands for a case on a release with one build of the product. The build is known
by what the .deb installs, its documentation left out, which holds these very results.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED, TIMEOUT = "passed", "failed", "skipped", "timeout"
FILE = Path(__file__).parent / "results.jsonl"


@dataclass(frozen=True)
class Result:
    """One run. ``case`` is pytest's node id, ``at`` UTC, ``seconds`` the harness's own."""

    case: str
    release: str
    product: str  # first digits of the build's hash
    commit: str
    at: str
    seconds: float
    outcome: str
    figures: list[Mapping[str, Any]] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)  # the failure's last lines


def product_hash(deb: Path) -> str:
    """Of what the .deb installs, needs and its scripts do, by name, mode and content; not of
    its documentation, nor of its version."""
    whole = hashlib.sha256()
    for part, skipped in (
        ("--fsys-tarfile", ("./usr/share/doc/",)),
        ("--ctrl-tarfile", ("./md5sums",)),
    ):
        with subprocess.Popen(["dpkg-deb", part, str(deb)], stdout=subprocess.PIPE) as packed:
            assert packed.stdout is not None
            with tarfile.open(fileobj=packed.stdout, mode="r|") as members:
                for member in members:
                    if not member.isfile() or member.name.startswith(skipped):
                        continue
                    content = members.extractfile(member)
                    assert content is not None
                    data = content.read()
                    if member.name == "./control":
                        data = re.sub(rb"(?m)^(Version|Installed-Size):.*\n", b"", data)
                    sum_ = hashlib.sha256(data).hexdigest()
                    whole.update(f"{member.name} {member.mode:o} {sum_}\n".encode())
        if packed.returncode:
            raise OSError(f"dpkg-deb can't read {deb}")
    return whole.hexdigest()[:12]


def commit() -> str:
    """The checkout's commit, with ``+`` when tracked files of the product differ from it."""
    name = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--", "xenhelper", "hooks", "systemd", "udev", "debian"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    return (name or "unknown") + ("+" if dirty else "")


def load(path: Path = FILE) -> list[Result]:
    """Every line, oldest first; a line cut off by a crash is passed over."""
    found = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                found.append(Result(**json.loads(line)))
            except (ValueError, TypeError):
                continue
    return found


def append(result: Result, path: Path = FILE) -> None:
    """Keep one line, durably. A broken last line doesn't take this one along."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(result)) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def latest(results: Iterable[Result]) -> dict[tuple[str, str], Result]:
    """The last run of each (case, release)."""
    return {(result.case, result.release): result for result in results}


def passed(results: Iterable[Result], release: str, product: str) -> set[str]:
    """Cases that need no further run: passed (or skipped) on this very build."""
    return {
        result.case
        for result in latest(r for r in results if r.release == release and r.product == product).values()
        if result.outcome in (PASSED, SKIPPED)
    }


def failed(results: Iterable[Result], release: str) -> set[str]:
    """Cases whose last run on any build didn't pass."""
    return {
        result.case
        for (_, where), result in latest(results).items()
        if where == release and result.outcome in (FAILED, TIMEOUT)
    }
