"""What administrators of a host were told: a mail server, a webhook's and a command there."""

from __future__ import annotations

import email
import email.policy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import figures
from .host import Host
from .wait import TimedOut, wait_until

RECEIVERS = Path(__file__).parents[1] / "receivers.py"
CHANNELS = ("smtp", "hook", "cmd")
CONFIG = """
[alerts]
mail =
smtp_to = admin@example.org
smtp_server = 127.0.0.1:2525
smtp_tls = none
webhook = http://127.0.0.1:8099/hook
command = /root/told/command
per_hour = 3600
"""
ALERTS = "/var/lib/xenhelper/alerts"
# seconds; emulated hosts are several times slower than real ones, and how many depends on
# what else this machine does: so the bound grows with the time that one Python takes there
WITHIN = 10.0
SLOWNESS = 2.0
PYTHON = 0.43
# while systemd is about to start it, its id is 0, which would be everybody's
_KILL = 'pid=$(systemctl show -p MainPID --value xenhelper-watch); [ "$pid" = 0 ] || kill -9 "$pid"'
COMMAND = "#!/bin/sh\ncat >/root/told/tmp && mv /root/told/tmp /root/told/cmd/$(date +%s.%N)\n"


@dataclass(frozen=True)
class Word:
    """One notice as it arrived: when (that host's clock), ``raised`` or ``over`` or ..., of what."""

    at: float
    state: str
    alert: str  # KIND.KEY


class Told:
    """The receivers on one host."""

    def __init__(self, host: Host, more: str = "") -> None:
        self.host = host
        host.put(RECEIVERS, "/root/receivers.py")
        host.write("/root/told.command", COMMAND)
        host.run(
            "mkdir -p /root/told/smtp /root/told/hook /root/told/cmd && "
            "install -m 755 /root/told.command /root/told/command"
        )
        self.start()
        config = re.sub(r"\n\[alerts\].*", "", host.read("/etc/xenhelper/xenhelper.conf"), flags=re.S)
        host.write("/etc/xenhelper/xenhelper.conf", config.rstrip() + "\n" + CONFIG + more)

    def start(self, *kinds: str) -> None:
        """Start the receivers (all)."""
        for kind, name, port in (("smtp", "smtp", 2525), ("hook", "webhook", 8099)):
            if not kinds or kind in kinds:
                command = f"python3 /root/receivers.py {name} {port} /root/told/{kind}"
                self.host.run(f"systemd-run -q -u told-{kind} {command}")
                wait_until(
                    lambda port=port: self.host.run(f"ss -Htln sport = :{port}").out, 200, f"{name} to listen"
                )

    def stop(self, kind: str) -> None:
        """Stop one."""
        self.host.run(f"systemctl stop told-{kind}")

    def words(self) -> dict[str, list[Word]]:
        """All that has arrived, by channel, in the order of arrival."""
        text = self.host.out(
            "cd /root/told; for f in smtp/*.json hook/*.json cmd/*; do "
            '[ -f "$f" ] && { printf "%s " "$f"; cat "$f"; echo; }; done; true'
        )
        found: dict[str, list[Word]] = {channel: [] for channel in CHANNELS}
        for line in text.splitlines():
            path, _, raw = line.partition(" ")
            channel, _, name = path.partition("/")
            if not raw:
                continue
            data = json.loads(raw)
            if channel == "smtp":
                mail = email.message_from_string(data["text"], policy=email.policy.default)
                for item in str(mail["X-Xenhelper-Alerts"]).split(", "):
                    alert, _, state = item.rpartition("=")
                    found[channel].append(Word(data["at"], state, alert))
                continue
            at = data["at"] if channel == "hook" else float(name)
            alerts = data["json"]["alerts"] if channel == "hook" else data["alerts"]
            found[channel] += [Word(at, a["state"], f"{a['kind']}.{a['key']}") for a in alerts]
        return {channel: sorted(words, key=lambda word: word.at) for channel, words in found.items()}

    def states(self, alert: str) -> dict[str, list[str]]:
        """By channel, what was said of one alert."""
        return {c: [w.state for w in words if w.alert == alert] for c, words in self.words().items()}

    def expect(self, alerts: Sequence[str], *states: str, timeout: float = 240) -> dict[str, list[Word]]:
        """Wait until every channel has said just these states of each alert, in this order.

        Raises TimedOut with what was said; AssertionError as soon as it is too much.
        """
        wanted = list(states)

        def said() -> dict[str, list[Word]] | None:
            words = self.words()
            complete = True
            for alert in alerts:
                for channel, heard in words.items():
                    found = [word.state for word in heard if word.alert == alert]
                    assert found == wanted[: len(found)], f"{self.host.name} {channel} {alert}: {found}"
                    complete = complete and found == wanted
            return words if complete else None

        try:
            result = wait_until(said, timeout, f"{self.host.name} to hear {wanted} of {alerts}", every=1)
        except TimedOut as error:
            raise TimedOut(f"{error}\nheard: {self.words()}") from None
        assert result is not None
        return result

    def delays(self, words: dict[str, list[Word]], alert: str, state: str, since: float) -> dict[str, float]:
        """Seconds from ``since`` (that host's clock) to the arrival, by channel."""
        return {
            channel: round(next(w.at for w in heard if w.alert == alert and w.state == state) - since, 1)
            for channel, heard in words.items()
        }


def kernel_said(host: Host, pattern: str, after: float = 0.0) -> float:
    """When the kernel last logged a line like this (that host's clock, seconds since 1970)."""
    text = host.run("journalctl -k -q --no-pager -o short-unix", 60).out
    times = [
        float(line.split()[0]) for line in text.splitlines() if re.search(pattern, line)
    ]  # fmt: skip
    times = [time for time in times if time >= after]
    assert times, f"{host.name}: no kernel line like {pattern!r}"
    return times[-1]


def figure(told: Told, what: str, delays: dict[str, float]) -> None:
    """Print and bound how long it took until each channel had it."""
    took = told.host.out("a=$(date +%s%N); python3 -IS -c pass; b=$(date +%s%N); echo $((b - a))")
    pace = max(1.0, int(took) / 1e9 / PYTHON)
    print(f"figure: {what}, {told.host.name}: {delays}, pace {pace:.1f}", flush=True)
    figures.note(f"alert: {what}", host=told.host.name, delays=delays, pace=round(pace, 1))
    assert max(delays.values()) <= WITHIN * SLOWNESS * pace, what


def stored(host: Host, alert: str) -> float:
    """When an alert's record last changed (that host's clock, seconds since 1970)."""
    return float(host.out(f"sed -n 's/^changed=//p' {ALERTS}/*/{alert} | tail -1"))


def clock(host: Host) -> float:
    """That host's clock."""
    return float(host.out("date +%s.%N"))


def kill_watcher(host: Host) -> None:
    """kill -9 of xenhelper-watch; systemd starts it again."""
    host.run(_KILL)


def killer(until: Sequence[str]) -> str:
    """A shell script that kills the watcher at once, and again whenever the next of these
    shell conditions has become true."""
    parts = [_KILL, *(f"timeout 100 sh -c 'until {c}; do sleep 0.1; done'; {_KILL}" for c in until)]
    return "; ".join(parts)
