"""The fault matrix: where a migration is caught, and what happens to it there.

A phase is a crash point of the product that is armed to hold the process which reaches
it (xenhelper/crash.py), so that the harness can cut the power or a cable at just that
moment and then let it go on; or, where no process of ours acts, a sight to wait for.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from .host import Host
from .lab import Lab
from .settle import SLOWNESS
from .wait import wait_until

SOURCE, DESTINATION = "alice", "bob"
VM = "web1"
CRASH_AT = "/run/xenhelper/crash-at"
LOG = "/root/migrate.log"
# the shim and the real xl that it started, by their command lines
SHIM = f"[x]l-plugin migrate {VM}"
REAL_XL = f"^xl migrate {VM}"


@dataclass(frozen=True)
class Phase:
    """A moment of a migration. ``order`` is for crash-at on ``host``; ``sight`` is a shell
    condition there instead, upon which ``hold`` (a pattern of pgrep -f) is stopped."""

    name: str
    host: str
    order: str = ""
    sight: str = ""
    hold: str = ""
    dwell: float = 0.0  # seconds to go on for, so that blocks are acknowledged at C


PHASES = (
    Phase("before-intent", SOURCE, "stop-before window:Window.open:intents.write"),
    Phase("intent", SOURCE, "stop-after window:Window.open:intents.write"),
    Phase("protocol-c", SOURCE, "stop-after window:Window._synchronous:verbs.net_options", dwell=5),
    Phase("drained", SOURCE, "stop-after drbd.barrier:drain:run < window:Window._synchronous 2", dwell=5),
    Phase("both-intents", SOURCE, "stop-after window:Window.open:client.ask", dwell=5),
    Phase("pre-copy", DESTINATION, sight=f"xl list | grep -q '^{VM}--incoming '", dwell=5),
    Phase("granted", SOURCE, "stop-after handover:grant:verbs.net_options#2 2"),
    Phase("in-add", DESTINATION, "stop-before hotplug:_promote:verbs.primary"),
    Phase("both-primary", DESTINATION, "stop-after hotplug:_publish:xenstore.write_all"),
    Phase("answer", SOURCE, sight=f"xl list | grep -q '^{VM}--migratedaway '", hold=REAL_XL),
    Phase("in-remove", SOURCE, "stop-before stepdown:step_down:verbs.secondary < letgo:remove"),
    Phase("closing", SOURCE, "stop-before steady:close:verbs.net_options < letgo:remove"),
    Phase("closed", SOURCE, "stop-before window:Window.close:client.ask"),
)
FAULTS = ("kill", "power-source", "power-destination", "cut-link", "cut-both")
# Beside the matrix: xl itself dies.
KILL_XL = "kill-xl"
XL_CAN_DIE_AT = ("pre-copy", "granted", "in-add", "both-primary")

# What a person must decide: docs/reliability.md says so beforehand, and no case is added
# here without that. The VM may be down there, with an alert that says what to do.
LOST_ANSWER = "kept suspended as --migratedaway: whether the other side runs isn't known to xl"
NO_XL = "xl died after it had suspended the guest: only `xl resume` (Xen 4.20) goes on from there"
PERSON = {
    ("answer", "kill"): LOST_ANSWER,
    ("answer", "power-destination"): LOST_ANSWER,
    ("answer", "cut-both"): LOST_ANSWER,
    ("granted", KILL_XL): NO_XL,
    ("in-add", KILL_XL): NO_XL,
    ("both-primary", KILL_XL): NO_XL,
}


def cases() -> list[tuple[Phase, str]]:
    """Every phase with every fault."""
    found = [(phase, fault) for phase in PHASES for fault in FAULTS]
    return found + [(phase, KILL_XL) for phase in PHASES if phase.name in XL_CAN_DIE_AT]


class NotCaught(Exception):
    """The migration ended, or time ran out, before the phase came."""


class Trap:
    """Holds a migration at one phase."""

    def __init__(self, lab: Lab, phase: Phase) -> None:
        self._lab = lab
        self.phase = phase
        self.host = lab.host(phase.host)
        self.pid = ""

    def arm(self) -> None:
        """Before the migration starts."""
        if self.phase.order:
            arm(self.host, self.phase.order)
            return
        stop = f"p=$(pgrep -f '{self.phase.hold}'); kill -STOP $p; " if self.phase.hold else "p=; "
        self.host.run(
            f"nohup sh -c 'until {_quoted(self.phase.sight)}; do sleep 0.05; done; "
            f"{_quoted(stop)} echo ${{p:-0}} sight > {CRASH_AT}.held' >/dev/null 2>&1 </dev/null &"
        )

    def wait(self, source: Host) -> None:
        """Until the migration is caught. Raises NotCaught."""
        end = time.monotonic() + 150 * SLOWNESS
        while True:
            held = self.host.read(f"{CRASH_AT}.held").split()
            if held:
                break
            ended = source.read(f"{LOG}.status").strip()
            if ended or time.monotonic() > end:
                raise NotCaught(
                    f"{self.phase.name}: xl ended with {ended or 'nothing yet'}: {source.read(LOG)}"
                )
            time.sleep(0.3)
        self.host.run(f"rm -f {CRASH_AT}.held")
        self.pid = held[0]
        if not self.phase.order and not self.phase.hold:  # the one at work is the shim, and not held
            self.host, self.pid = source, source.out(f"pgrep -of '{SHIM}'")
        if self.phase.name == "both-primary":
            wait_until(
                lambda: roles(self.host).count("Primary/Primary") == 2, 20, "both disks Primary on both"
            )

    def release(self) -> None:
        """Let the held process go on, where it can."""
        if self.host.is_on and self.pid not in ("", "0"):
            self.host.run(f"kill -CONT {self.pid}", check=False)


def roles(host: Host) -> list[str]:
    """``Primary/Secondary`` and so on of every minor."""
    return re.findall(r"^\s*\d+: cs:\S+ ro:(\S+)", host.read("/proc/drbd"), re.M)


def arm(host: Host, order: str) -> None:
    """Arm a crash point on a host (xenhelper/crash.py)."""
    host.run(
        f"umask 077; mkdir -p {CRASH_AT.rsplit('/', 1)[0]}; rm -f {CRASH_AT}.held; "
        f"echo '{order}' > {CRASH_AT}.new && mv {CRASH_AT}.new {CRASH_AT}"
    )


def disarm(host: Host) -> bool:
    """Take the order back; whether it was still waiting."""
    return host.run(f"rm {CRASH_AT}", check=False).ok


def start(source: Host) -> None:
    """``xl migrate``, as typed by somebody whose terminal doesn't matter any more."""
    source.run(
        f"rm -f {LOG} {LOG}.status; nohup sh -c 'xl migrate {VM} {DESTINATION} >{LOG} 2>&1; "
        f"echo $? >{LOG}.status' >/dev/null 2>&1 </dev/null &"
    )


def strike(lab: Lab, trap: Trap, fault: str) -> None:
    """The fault, at this moment; then the held process goes on if it still can."""
    source, destination = lab.host(SOURCE), lab.host(DESTINATION)
    if fault == "kill":
        trap.host.run(f"kill -KILL {trap.pid}")
        return
    if fault == KILL_XL:
        source.run(f"pkill -KILL -f '{REAL_XL}'")
    elif fault == "power-source":
        source.power_off()
    elif fault == "power-destination":
        destination.power_off()
    else:
        lab.cut_link()
        if fault == "cut-both":
            lab.cut_second_path()
    trap.release()


def outage(lab: Lab, fault: str) -> None:
    """How long it lasts: until every host that lives has noticed, and a while longer."""
    if fault in ("kill", KILL_XL):
        return
    living = [host for host in lab.hosts if host.is_on]
    wait_until(
        lambda: all("cs:Connected" not in host.read("/proc/drbd") for host in living),
        60 * SLOWNESS,
        f"{' and '.join(host.name for host in living)} to notice the loss",
        every=1,
    )
    time.sleep(10)  # the length of the outage, not a wait for anything


def restore(lab: Lab) -> None:
    """Power and cables are back; nobody does anything else."""
    lab.heal()
    for host in lab.hosts:
        if not host.is_on:
            host.power_on()
    lab.heal()


def autostart(lab: Lab, vm: str = VM) -> None:
    """As administrators have it: xendomains on either host knows the VM."""
    for host in lab.hosts:
        host.run(f"mkdir -p /etc/xen/auto && ln -sf /etc/xen/{vm}.cfg /etc/xen/auto/{vm}.cfg && sync")


def _quoted(text: str) -> str:
    """Within a shell's single quotes."""
    return text.replace("'", "'\\''")
