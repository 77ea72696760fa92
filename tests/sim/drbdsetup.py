"""drbdsetup: what changes a resource's state.

Exit statuses and messages are those of drbd-utils 9.22 on an 8.4 kernel.
"""

from typing import Any

from tests.sim.drbdends import addresses, by_minor, ends
from tests.sim.drbdshown import events2, generation, show
from tests.sim.end import (
    CONNECTING,
    CONSISTENT,
    DISKLESS,
    DUNKNOWN,
    INCONSISTENT,
    OUTDATED,
    PRIMARY,
    SECONDARY,
    SS,
    STANDALONE,
    UPTODATE,
    End,
)
from tests.sim.kernel import Output

WAITS = ("primary", "resume-io")  # these may wait in the kernel
PING_TIMEOUT = 3.0  # seconds, as the product's resource files have it


def failed(minor: int, code: int) -> Output:
    """drbdsetup's words and exit status for a refused state change (drbdsetup.c)."""
    status = 17 if code == -2 else 5 if code == -16 else 11
    return status, "", f"{minor}: State change failed: ({code}) {SS.get(code, '?')}\n"


def unknown_minor(minor: str) -> Output:
    text = "Failure: (127) Device minor not allocated\nadditional info from kernel:\nunknown minor"
    return 10, "", f"{minor}: {text}\n"


def unknown_connection() -> Output:
    text = "Failure: (162) Invalid configuration request\nadditional info from kernel:\nunknown connection"
    return 10, "", f"??: {text}\n"


def drbdsetup(process: Any, argv: "list[str]") -> Output:
    host = process.host
    command, rest = argv[1], argv[2:]
    if command == "events2":
        return events2(host, [word for word in rest if not word.startswith("--")])
    if command == "show":
        return show(host, rest)
    if command in ("show-gi", "get-gi"):
        end = by_minor(host, rest[0])
        if end is None or not end.up:
            return unknown_minor(rest[0])
        if end.disk == DISKLESS:
            return 1, "", "Device has no disk\n"
        return 0, generation(end), ""
    if command == "net-options":
        return net_options(process, rest)
    if command == "down":
        found = [end for end in ends(host) if end.pair.name == rest[0] and end.up]
        return down(found[0]) if found else (0, "", "")
    end = by_minor(host, rest[0])
    if end is None or not end.up:
        return unknown_minor(rest[0])
    if command == "primary":
        return primary(process, end, "--force" in rest)
    if command == "secondary":
        return locked(process, end, secondary)
    if command == "outdate":
        return locked(process, end, outdate)
    if command == "resume-io":
        return resume_io(process, end)
    raise AssertionError(f"drbdsetup {command} isn't simulated")


def locked(process: Any, end: End, act: Any) -> Output:
    """Under the resource's adm_mutex, which ``primary`` keeps while it waits."""
    while end.adm is not None and end.adm.status is None and not end.adm.dead:
        process.block(0.05)
    result: Output = act(end)
    return result


def secondary(end: End) -> Output:
    if end.role == SECONDARY:
        return 0, "", ""
    if end.openers:
        return failed(end.pair.minor, -12)
    end.role = SECONDARY
    end.keep()
    end.tell()
    end.world.promises.role(end)
    return 0, "", ""


def outdate(end: End) -> Output:
    minor = end.pair.minor
    if end.connected and end.disk >= OUTDATED:
        return 0, "", ""  # sanitize_state(): Outdated vanishes on a connection
    if end.disk < OUTDATED:
        return failed(minor, -16)
    if end.role == PRIMARY:
        return failed(minor, -2)
    end.disk = OUTDATED
    end.keep()
    return 0, "", ""


def primary(process: Any, end: End, force: bool) -> Output:
    """drbd_set_role() with its retries; may call the fence-peer handler."""
    while end.adm is not None and end.adm.status is None and not end.adm.dead:
        process.block(0.05)
    end.adm = process
    incarnation = end.incarnation
    try:
        verdict, tries = 0, 0
        while tries < 4:
            tries += 1
            if end.role == PRIMARY:
                return 0, "", ""
            verdict = end.valid_primary()
            if verdict == 1 and end.connected:
                verdict = _ask(process, end)
                if verdict == 1:
                    verdict = end.valid_primary()
                if verdict == -19:
                    break
            if verdict == -10:
                continue
            if verdict == -2 and force and end.disk >= INCONSISTENT:
                end.disk = UPTODATE
                continue
            if verdict == -2 and end.disk == CONSISTENT and not end.connected:
                if _fence(process, end):
                    end.disk = UPTODATE
                    end.keep()
                continue
            if verdict == -7:
                if not _fence(process, end) and force:
                    end.pdsk = OUTDATED
                continue
            if verdict == -1 and tries < 4:
                tries = 3
                process.block(PING_TIMEOUT + 0.1)
                continue
            break
        if incarnation != end.incarnation or verdict != 1:
            return failed(end.pair.minor, verdict or -7)
        end.role = PRIMARY
        end.discard = False
        if (not end.connected or end.pdsk <= DISKLESS) and end.uuid[1] == 0:
            end.new_current()
        end.keep()
        end.tell()
        end.world.promises.role(end)
        return 0, "", ""
    finally:
        if end.adm is process:
            end.adm = None


def _ask(process: Any, end: End) -> int:
    """The cluster-wide part: the peer must agree; its answer may overtake its data."""
    end.request = [process, process.next_token()]
    end.pair.data[end.index].send(end.peer.asked, end.session)
    answer = process.block()
    if answer == "lost":
        return -10
    return int(answer)


def _fence(process: Any, end: End) -> bool:
    if end.connected or end.conn == "WFReportParams":
        return False
    token = process.next_token()
    end.world.fence_peer(end, lambda status, meetings, _: process.wake(token, (status, meetings)))
    status, meetings = process.block()
    return end.fenced(status, meetings)


def resume_io(process: Any, end: End) -> Output:
    """On a device that isn't suspended: hold new requests until none is in flight. Keeps
    DRBD's netlink lock meanwhile."""
    host = end.host
    host.netlink = process
    end.hold()
    try:
        if end.upper:
            end.waiting.append((process, process.next_token()))
            process.block()
    finally:
        if host.netlink is process:
            host.netlink = None
        if not process.dead:
            end.release()
    return 0, "", ""


def disconnect(end: End) -> Output:
    """conn_try_disconnect(): where one side is Primary the other's disk is outdated first, by
    agreement, so neither needs its handler."""
    if end.conn == STANDALONE:
        return unknown_connection()
    leave(end)
    return 0, "", ""


def leave(end: End) -> None:
    peer, session = end.peer, end.session
    if not session or peer.session != session or not end.pair.link.up:
        if session:  # nobody to agree with: it goes as it is
            end.lose(session, STANDALONE)
        end.conn, end.protocol, end.two = STANDALONE, "", False
        return
    known = {end: DUNKNOWN, peer: DUNKNOWN}
    for one, other in ((end, peer), (peer, end)):
        if one.role == PRIMARY and other.role == SECONDARY:
            other.disk = min(other.disk, OUTDATED)
            known[one] = OUTDATED
    end.lose(session, STANDALONE, known[end])
    peer.lose(session, CONNECTING, known[peer])


def down(end: End) -> Output:
    """drbd_adm_down(): demotes, disconnects, detaches."""
    if end.openers:
        return failed(end.pair.minor, -12)
    secondary(end)
    leave(end)
    end.forget()
    return 0, "", ""


def net_options(process: Any, words: "list[str]") -> Output:
    local, remote = words[0], words[1]
    options = dict(word[2:].split("=", 1) for word in words[2:] if word.startswith("--"))
    host = process.host
    found = [end for end in ends(host) if end.up and addresses(end) == (local, remote)]
    if not found or found[0].conn == STANDALONE:
        return unknown_connection()
    end = found[0]
    protocol = options.get("protocol", end.protocol)
    two = options.get("allow-two-primaries", "yes" if end.two else "no") == "yes"
    return locked(process, end, lambda end: change_options(end, protocol, two))


def change_options(end: End, protocol: str, two: bool) -> Output:
    if end.conn == STANDALONE:
        return unknown_connection()
    if not two and end.role == PRIMARY and end.peer_role == PRIMARY:
        return (
            10,
            "",
            (
                "??: Failure: (164) Can not clear allow_two_primaries as long as\n"
                "there a primaries on both sides\n"
            ),
        )
    if two and protocol != "C":
        return 10, "", "??: Failure: (139) Protocol C required\n"
    end.protocol, end.two = protocol, two
    if end.session:
        # straight into the socket, past what the worker still has to send
        end.pair.data[end.index].send(end.peer.options, protocol, two, end.session)
    return 0, "", ""
