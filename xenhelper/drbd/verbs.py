"""What changes DRBD: each verb one bounded drbdsetup call by minor, with its retries.

By minor rather than through drbdadm, which parses every file in /etc/drbd.d: a broken
foreign one there must not stop a guest.
"""

import os
import time

from xenhelper.drbd import events
from xenhelper.errors import CommandFailed, Refused, XenhelperError
from xenhelper.run import run

# drbdsetup's exit status and the kernel's codes in its message (drbd.h, drbd_strings.c)
STATE_CHANGE_FAILED = 11
HELD_OPEN = "(-12)"
TWO_PRIMARIES = "(-1)"
CONCURRENT = "(-19)"
NOT_UP_TO_DATE = "(-2)"
FENCING_REFUSED = "(-7)"


def primary(minor: int, force: bool = False, timeout: float = 12.0) -> None:
    """Promote. DRBD calls the fence-peer handler in here (5 s at most) when it must.

    Raises CommandFailed; its ``stderr`` holds the kernel's reason.
    """
    argv = ["drbdsetup", "primary", str(minor)]
    if force:
        argv.append("--force")
    for attempt in (1, 2, 3):
        try:
            run(argv, timeout=timeout)
            return
        except CommandFailed as error:
            if attempt == 3 or error.status != STATE_CHANGE_FAILED or CONCURRENT not in error.stderr:
                raise
            time.sleep(0.3)


def secondary(minor: int, seconds: float = 10.0, timeout: float = 10.0, name: str = "") -> None:
    """Demote, for ``seconds`` while the device is still held open (blkback lets go after
    it says Closed; udev and multipath probe for a moment), each try taking ``timeout`` at
    most. Raises XenhelperError naming the resource, if it is given, and the holder."""
    deadline = time.monotonic() + seconds
    pause = 0.05
    while True:
        try:
            run(["drbdsetup", "secondary", str(minor)], timeout=timeout)
            return
        except CommandFailed as error:
            held = HELD_OPEN in error.stderr
            passing = error.status == STATE_CHANGE_FAILED and (held or CONCURRENT in error.stderr)
            if not passing:
                raise
            if time.monotonic() + pause > deadline:
                if held:
                    what = (f"{name}: " if name else "") + f"/dev/drbd{minor}"
                    raise XenhelperError(
                        f"{what} can't be demoted: held open by {holder(minor)}",
                        "let it go, then `xenhelper reconcile`",
                    ) from error
                raise
        time.sleep(pause)
        pause = min(1.0, pause * 1.6)


def holder(minor: int) -> str:
    """Who holds /dev/drbdN open: mounts, stacked devices, processes, else the kernel."""
    return ", ".join(holders(minor)) or "the kernel (a guest's block backend?)"


def holders(minor: int) -> "list[str]":
    """The same, without the kernel."""
    name = f"drbd{minor}"
    found = []
    try:
        found += [f"device {entry}" for entry in os.listdir(f"/sys/block/{name}/holders")]
    except OSError:
        pass
    try:
        rdev = os.stat(f"/dev/{name}").st_rdev
        number = f"{os.major(rdev)}:{os.minor(rdev)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            found += [f"mount {line.split()[4]}" for line in mounts if line.split()[2] == number]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if _opens(pid, rdev):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                    found.append(f"{comm.read().strip()} (pid {pid})")
    except OSError:
        pass
    return found


def _opens(pid: str, rdev: int) -> bool:
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.stat(f"/proc/{pid}/fd/{fd}").st_rdev == rdev:
                return True
    except OSError:
        pass
    return False


def net_options(local: str, remote: str, protocol: str, two_primaries: bool) -> None:
    """Set both in one call: DRBD wants the pair whole, and tells the connected peer.

    Raises CommandFailed; 139 two-primaries without C, 164 both are still Primary.
    """
    if not local or not remote:
        raise XenhelperError("the connection is StandAlone: its settings can't be changed")
    run(
        [
            "drbdsetup",
            "net-options",
            local,
            remote,
            f"--protocol={protocol}",
            "--allow-two-primaries=" + ("yes" if two_primaries else "no"),
        ],
        timeout=10,
    )


def resize(minor: int) -> None:
    """Take the size that both hosts' volumes have by now. DRBD holds the guest's IO for a
    moment, and copies what is new from the Primary. Raises CommandFailed: 130 while a
    resync runs, 131 with two Secondaries (drbd.h), among others."""
    run(["drbdsetup", "resize", str(minor)], timeout=60)


def outdate(minor: int) -> None:
    """Mark the local disk Outdated (only while disconnected or Secondary to nobody)."""
    run(["drbdsetup", "outdate", str(minor)], timeout=4)


def generation(minor: int, timeout: float = 4.0) -> "tuple[int, int]":
    """(current, bitmap) generation UUIDs of the local data, without their lowest bit, which
    says Primary. ``bitmap`` is not 0 once this side went on alone, until it has resynced."""
    return parse_generation(_show_gi(minor, timeout))


def lineage(minor: int) -> "tuple[int, int, bool]":
    """As :func:`generation`, and whether this host died as Primary and hasn't met its peer
    since: its disk may have writes that never left it, under the same generation (flags 3
    and 7 of ``drbdsetup show-gi``, for a disk that is Secondary now). To be asked of one that
    is apart: connected again, the flag lasts until the next change of state (drbd_state.c)."""
    text = _show_gi(minor)
    return *parse_generation(text), parse_was_primary(text)


def uuids(minor: int) -> "tuple[int, ...]":
    """The four generation UUIDs (current, bitmap, two of history), without their lowest bit."""
    return _parse_uuids(_show_gi(minor))[0]


def _show_gi(minor: int, timeout: float = 4.0) -> str:
    return run(["drbdsetup", "show-gi", str(minor)], timeout=timeout).stdout


def parse_generation(text: str) -> "tuple[int, int]":
    """The two UUIDs from ``drbdsetup show-gi`` or ``get-gi`` (its last line of colons)."""
    current, bitmap = _parse_uuids(text)[0][:2]
    return current, bitmap


def parse_was_primary(text: str) -> bool:
    """Flags 3 ("was/is currently primary") and 7 ("crashed primary, and has not seen its peer
    since") of the same line."""
    flags = _parse_uuids(text)[1]
    if len(flags) < 7 or not {*flags[:7]} <= {"0", "1"}:
        raise XenhelperError("drbdsetup show-gi printed no flags")
    return "1" in (flags[2], flags[6])


def _parse_uuids(text: str) -> "tuple[tuple[int, ...], list[str]]":
    """The UUIDs without their lowest bit, and the flags behind them as they stand."""
    for line in reversed(text.splitlines()):
        fields = line.strip().split(":")
        # 16 digits each (drbdmeta.c, X64(016)); int() would take signs and underscores as well
        if len(fields) >= 4 and all(len(one) == 16 and one.isascii() and one.isalnum() for one in fields[:4]):
            try:
                return tuple(int(field, 16) & ~1 for field in fields[:4]), fields[4:]
            except ValueError:
                continue
    raise XenhelperError("drbdsetup show-gi printed no generation")


def wait_until(name: str, seconds: float, wanted: str, step: float = 0.1) -> events.Resource:
    """Poll until the resource satisfies ``wanted`` (``drained`` or ``connected``).

    Raises Refused when ``seconds`` pass first.
    """
    deadline = time.monotonic() + seconds
    while True:
        resource = events.one(name)
        if resource is not None:
            if wanted == "drained" and resource.lower_pending == 0:
                return resource
            if wanted == "connected" and resource.connected:
                return resource
        if time.monotonic() >= deadline:
            state = repr(resource) if resource is not None else "not up"
            raise Refused(f"{name}: not {wanted} within {seconds:g} s ({state})", "see `xenhelper status`")
        time.sleep(step)


def verify(minor: int, start: int, stop: int) -> None:
    """Have the kernel compare both copies from sector ``start`` to ``stop`` (of 512 bytes).

    While one runs, this moves its end: with ``stop`` behind it, it ends at once, and the
    kernel logs the sector that it has reached (drbd_adm_start_ov, drbd_state.c). Raises
    CommandFailed.
    """
    run(["drbdsetup", "verify", str(minor), f"--start={start}", f"--stop={stop}"], timeout=15)


def sync_rate(minor: int, kib: int) -> None:
    """At most ``kib`` KiB a second for what DRBD reads or copies in the background, until
    the resource file's own settings are applied again. Raises CommandFailed."""
    run(["drbdsetup", "disk-options", str(minor), f"--c-max-rate={kib}"], timeout=10)


def disconnect(local: str, remote: str) -> None:
    """End the connection between two addresses; this side is StandAlone then. A Secondary
    that leaves a Primary outdates itself (conn_try_disconnect). Raises CommandFailed."""
    run(["drbdsetup", "disconnect", local, remote], timeout=15)
