"""What is compared with what, the goal, and the samples as they were measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = Path("docs/performance-samples.json")
LESS, MORE = "or less", "or more"


@dataclass(frozen=True)
class Row:
    """One line of the table: ``goal`` is the ratio of our median to theirs, None where it only informs."""

    key: str
    what: str
    against: str
    goal: float | None
    sense: str = LESS

    def met(self, ratio: float) -> bool:
        """Whether the goal is reached, if there is one."""
        if self.goal is None:
            return True
        return ratio <= self.goal if self.sense == LESS else ratio >= self.goal


ROWS = (
    Row("add", "`block-xenhelper add`, known VM", "`block-drbd add` on the same host", 0.33),
    Row("remove", "`block-xenhelper remove`, no migration", "`block-drbd remove`", None),
    Row("add-destination", "`add` of a migration's destination", "`block-drbd add` of one", 0.40),
    Row("downtime", "guest's downtime in `xl migrate`", "plain xl with block-drbd, always C and dual", 0.65),
    Row("both-primary", "both hosts Primary in a migration", "the same", 0.65),
    Row("allowed", "two-primaries allowed in a migration", "the whole migration", 0.15),
    Row("protocol-c", "protocol C around a migration", "the whole migration", 1.10),
    Row("migrate", "whole `xl migrate`", "plain xl with block-drbd", 1.10),
    Row("create", "later `xl create`", "real xl with block-drbd", 0.90),
    Row("first-create", "first `xl create` of a two-disk VM", "the commands by hand, as a script", 1.00),
    Row("list", "`xl list` through the shim", "Debian's `/usr/sbin/xl list`", 1.10),
    Row("steady-c", "synchronous writes a second, 50 ms away", "the same at protocol C", 4.00, MORE),
    Row("steady-plain", "the same", "a volume without DRBD", 0.90, MORE),
    Row("status", "`status --json`, 200 resources", "`drbdsetup events2 --now`, `xl list -l`", 2.00),
    Row("status-2000", "`status --json`, 2,000 resources", "ten times that of 200", 1.10),
    Row("allocation", "CPU of giving out numbers, 1,000 resources there", "100 times that with 10", 1.00),
)


@dataclass
class Samples:
    """Both sides of one row, in seconds, in the order they were taken."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    commit: str = ""
    at: str = ""

    @property
    def ratio(self) -> float | None:
        """Median to median; None where a side has nothing."""
        if not self.ours or not self.theirs:
            return None
        return statistics.median(self.ours) / statistics.median(self.theirs)


def load(path: Path = FILE) -> dict[str, Samples]:
    """The samples of every row that was ever run; a row's newer run replaces the older."""
    if not path.exists():
        return {}
    return {key: Samples(**value) for key, value in json.loads(path.read_text()).items()}


def keep(found: Mapping[str, Samples], path: Path = FILE) -> None:
    """Merge what was measured into the file."""
    known = {**load(path), **{key: value for key, value in found.items() if value.ratio is not None}}
    order = [row.key for row in ROWS]
    text = json.dumps({key: asdict(known[key]) for key in sorted(known, key=order.index)}, indent=1)
    path.write_text(text + "\n")


def rounded(values: Iterable[float]) -> list[float]:
    """Milliseconds are all that a sample is good for."""
    return [round(value, 3) for value in values]
