"""What a channel is given: one message of one or more notices, as text and as JSON."""

import hashlib
from dataclasses import dataclass
from typing import Any

from xenhelper import insync
from xenhelper.alerts import store

# how a notice speaks of its alert: it is there; it is over; it came and went before
# anybody was told; it comes and goes, no more of it until it has been quiet
RAISED, OVER, PASSED, FLAPS = "raised", "over", "passed", "flaps"
FORMAT = 1


@dataclass(frozen=True)
class Notice:
    """One change of one alert. ``id`` stays the same when it has to be sent again."""

    id: str
    manner: str
    kind: str
    key: str
    severity: str
    vm: str
    resource: str
    what: str
    do: str
    since: str
    over_at: str = ""
    over_what: str = ""

    @property
    def headline(self) -> str:
        """One line for whoever sees nothing else."""
        before = {OVER: "over: ", PASSED: "was, and is over: ", FLAPS: "comes and goes: "}
        return before.get(self.manner, "") + self.what

    def lines(self) -> list[str]:
        """A paragraph of the text."""
        if self.manner in (OVER, PASSED):
            took = _seconds(self.since, self.over_at)
            ended = f": {self.over_what}" if self.over_what else ""
            return [
                f"{self.manner.upper()}: {self.what}",
                f"  from {_clock(self.since)} to {_clock(self.over_at)}{took}{ended}",
            ]
        found = [f"{self.severity.upper()}: {self.what}", f"  since {_clock(self.since)}"]
        if self.manner == FLAPS:
            found.append("  it comes and goes: the next word of it comes when that has ended")
        if self.do:
            found.append(f"  do: {self.do}")
        return found


@dataclass(frozen=True)
class Message:
    """What is sent at once, by the host ``host``."""

    host: str
    time: str
    notices: tuple[Notice, ...]

    @property
    def id(self) -> str:
        """The same for the same notices."""
        text = "\n".join([self.host, *(notice.id for notice in self.notices)])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def subject(self) -> str:
        """One line, the gravest first."""
        more = len(self.notices) - 1
        head = self.notices[0].headline
        if len(head) > 150:
            head = head[:149] + "…"
        return f"[{self.host}] {head}" + (f" (and {more} more)" if more else "")

    @property
    def text(self) -> str:
        """For a person."""
        parts = ["\n".join(notice.lines()) for notice in self.notices]
        parts.append(
            f"-- \nxenhelper on {self.host}, {_clock(self.time)}. `xenhelper status` shows how all is now, "
            "`xenhelper log` what went before."
        )
        return "\n\n".join(parts) + "\n"

    def json(self) -> dict[str, Any]:
        """For a program: the form is in docs/alerts.md."""
        return {
            "format": FORMAT,
            "id": self.id,
            "host": self.host,
            "time": self.time,
            "subject": self.subject,
            "text": self.text,
            "alerts": [
                {
                    "id": notice.id,
                    "state": notice.manner,
                    "kind": notice.kind,
                    "key": notice.key,
                    "severity": notice.severity,
                    "vm": notice.vm or None,
                    "resource": notice.resource or None,
                    "what": notice.what,
                    "do": notice.do or None,
                    "since": notice.since,
                    "until": notice.over_at or None,
                    "ended": notice.over_what or None,
                }
                for notice in self.notices
            ],
        }


def notice(record: dict[str, str], manner: str, host: str) -> Notice:
    """Of an alert's record."""
    name = store.filename(record["kind"], record["key"])
    return Notice(
        id=f"{host}/{name}/{record['since']}/{record['seq']}",
        manner=manner,
        **{key: record.get(key, "") for key in _FIELDS},
    )


_FIELDS = ("kind", "key", "severity", "vm", "resource", "what", "do", "since", "over_at", "over_what")


def message(host: str, now: float, notices: list[Notice]) -> Message:
    """The gravest that began come first, what is over comes last."""

    def rank(one: Notice) -> tuple[bool, int, str]:
        grave = store.SEVERITIES.index(one.severity) if one.severity in store.SEVERITIES else 0
        return one.manner in (OVER, PASSED), -grave, one.since

    return Message(host, insync.stamp(now), tuple(sorted(notices, key=rank)))


def _clock(stamp: str) -> str:
    return stamp.replace("T", " ").replace("Z", " UTC")


def _seconds(since: str, until: str) -> str:
    begin, end = insync.seconds(since), insync.seconds(until)
    if begin is None or end is None or end < begin:
        return ""
    return f" ({spell(end - begin)})"


def spell(seconds: float) -> str:
    """A duration as people say it: 12 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    total = round(seconds)
    for big, small, name, less in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if total >= big:
            rest = total % big // small
            return f"{total // big} {name}" + (f" {rest} {less}" if rest else "")
    return f"{total} s"
