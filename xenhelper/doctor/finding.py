"""One thing that a check found, as every check hands it to ``xenhelper doctor``."""

from dataclasses import dataclass

ERROR, WARNING, HINT = "error", "warning", "hint"
SEVERITIES = (ERROR, WARNING, HINT)


@dataclass(frozen=True)
class Finding:
    """``severity`` is one of :data:`SEVERITIES`; ``host`` and ``vm`` say what it is about
    (None: no single one). ``what`` and ``do`` are one line each: what is wrong, what to
    type next. The fields are those of ``xenhelper doctor --json``."""

    severity: str
    host: str | None
    vm: str | None
    what: str
    do: str
