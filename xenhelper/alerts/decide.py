"""What a channel is to be told of an alert, and when. Pure."""

from dataclasses import dataclass

from xenhelper.alerts import message, store

# seconds: what happens together comes in one message, and nobody waits longer for that
GATHER = 1.0
# an alert that is raised this often within this many seconds flaps, until it has stayed
# as it is for so long
FLAPS_RAISED = 4
FLAPS_WITHIN = 600.0
QUIET = 300.0
# a change that a channel never took is given up after so long: the journal has it
GIVE_UP = 24 * 3600.0
# seconds before the next try after so many failures
_BACK_OFF = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0)
# failures in a row after which the other channels are told of it
FAILURES_TO_TELL = 3


@dataclass(frozen=True)
class Word:
    """Tell it ``manner`` at ``at`` (seconds since 1970). ``flapping``: what is to be
    remembered of it then."""

    at: float
    manner: str
    flapping: bool = False


def word(record: dict[str, str], channel: str) -> Word | None:
    """What ``channel`` is to be told of this record next; None: nothing."""
    seq, told = _number(record, "seq"), _number(record, f"told.{channel}")
    if told >= seq:
        return None
    changed = store.changed(record)
    over = record["state"] == store.OVER
    if record.get(f"flaps.{channel}"):
        return Word(changed + QUIET, message.OVER if over else message.RAISED)
    if not over and _flaps(record, changed):
        return Word(changed + GATHER, message.FLAPS, True)
    if not over:
        return Word(changed + GATHER, message.RAISED)
    return Word(changed + GATHER, message.OVER if told >= _number(record, "raised_seq") else message.PASSED)


def _flaps(record: dict[str, str], now: float) -> bool:
    times = [float(time) for time in record.get("times", "").split(",") if time.isdecimal()]
    return sum(now - FLAPS_WITHIN <= time <= now + 1 for time in times) >= FLAPS_RAISED


def told(record: dict[str, str], channel: str, seq: int, flapping: bool) -> dict[str, str]:
    """The record once ``channel`` has taken its change ``seq``."""
    done = {**record, f"told.{channel}": str(max(seq, _number(record, f"told.{channel}")))}
    if flapping:
        done[f"flaps.{channel}"] = "1"
    else:
        done.pop(f"flaps.{channel}", None)
    return done


def is_told(record: dict[str, str], channels: list[str]) -> bool:
    """Whether every channel has been told of its last change."""
    return all(word(record, channel) is None for channel in channels)


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row (1 or more)."""
    return _BACK_OFF[min(failures, len(_BACK_OFF)) - 1]


@dataclass(frozen=True)
class Allowance:
    """A channel's messages an hour: a quarter of them may come at once, and each that was
    sent comes back with time."""

    left: float
    at: float

    def now(self, now: float, per_hour: int) -> "Allowance":
        """What is left at ``now``; a clock that was put back gives nothing."""
        most = max(1.0, per_hour / 4)
        back = max(0.0, now - self.at) * per_hour / 3600
        return Allowance(min(most, self.left + back), now)

    def wait(self, per_hour: int) -> float:
        """Seconds until one may be sent."""
        return max(0.0, 1.0 - self.left) * 3600 / per_hour


def _number(record: dict[str, str], key: str) -> int:
    text = record.get(key, "")
    return int(text) if text.isdecimal() else 0
