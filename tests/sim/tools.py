"""The programs that the product starts, by argv: drbdsetup, drbdadm, xl and a few more.

Texts, exit statuses and messages are those of drbd-utils 9.22 on an 8.4 kernel and of
xl 4.20 (tests/unit/captured). A command that may wait in the kernel is a process of its
own, which a kill doesn't end.
"""

import json
from typing import Any

from tests.sim.end import (
    CONNECTED,
    CONNECTING,
    CONSISTENT,
    DISK,
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

Output = tuple[int, str, str]
WAITS = ("primary", "resume-io")
XL = "/usr/lib/xen-4.20/bin/xl"
PING_TIMEOUT = 3.0  # seconds, as the product's resource files have it
SIZE_KIB = 65536  # of each device


def ends(host: Any) -> "list[End]":
    return [pair.ends[host.index] for pair in host.world.pairs.values()]


def by_minor(host: Any, minor: str) -> "End | None":
    return next((end for end in ends(host) if str(end.pair.minor) == minor), None)


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


def addresses(end: End) -> "tuple[str, str]":
    here, there = end.index + 1, 2 - end.index
    return f"ipv4:10.99.0.{here}:{end.pair.port}", f"ipv4:10.99.0.{there}:{end.pair.port}"


def generation(end: End) -> str:
    flags = ":".join(
        str(int(flag))
        for flag in (
            end.md_consistent, end.md_was_uptodate, end.role == PRIMARY, end.connected,
            False, end.md_peer_outdated, end.md_crashed,
        )
    )  # fmt: skip
    current = end.uuid[0] | (1 if end.role == PRIMARY else 0)
    line = ":".join(f"{uuid:016X}" for uuid in (current, *end.uuid[1:])) + ":" + flags
    return f"\n       +--<  Current data generation UUID  >-\n       V\n{line}\n\n"


def events2(host: Any, names: "list[str]") -> Output:
    shown = [end for end in ends(host) if end.up and (not names or end.pair.name in names)]
    lines = []
    for end in shown:
        name, minor = end.pair.name, end.pair.minor
        head = f"name:{name}"
        lines.append(f"exists resource {head} role:{end.role} suspended:no write-ordering:flush")
        peer = f"{head} peer-node-id:0" + (" conn-name:peer" if end.conn != STANDALONE else "")
        if end.conn != STANDALONE:
            lines.append(f"exists connection {peer} connection:{end.conn} role:{end.peer_role} congested:no")
        else:
            lines.append(f"exists connection {peer} connection:StandAlone role:Unknown congested:no")
        lines.append(
            f"exists device {head} volume:0 minor:{minor} disk:{DISK[end.disk]} size:{SIZE_KIB} read:0"
            f" written:0 al-writes:0 bm-writes:0 upper-pending:{end.upper}"
            f" lower-pending:{end.lower + end.local_io} al-suspended:no blocked:no"
        )
        replication = end.sync or ("Established" if end.connected else "Off")
        lines.append(
            f"exists peer-device {peer} volume:0 replication:{replication} peer-disk:{DISK[end.pdsk]}"
            f" resync-suspended:no received:0 sent:0 out-of-sync:{4 * len(end.oos)} pending:0 unacked:0"
        )
    return 0, "\n".join([*lines, "exists -", ""]), ""


def proc_drbd(host: Any) -> str:
    """/proc/drbd, which calls a connection that isn't there yet WFConnection."""
    text = "version: 8.4.11 (api:1/proto:86-101)\nsrcversion: 637677C4EAFCF5D1D5446B0 \n\n"
    for end in ends(host):
        if end.up:
            conn = end.sync or ("WFConnection" if end.conn == CONNECTING else end.conn)
            text += (
                f"{end.pair.minor}: cs:{conn} ro:{end.role}/{end.peer_role}"
                f" ds:{DISK[end.disk]}/{DISK[end.pdsk]} {end.protocol or ' '} r-----\n"
                f"    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:{end.lower + end.local_io} pe:0 ua:0 ap:{end.upper}"
                f" ep:1 wo:f oos:{4 * len(end.oos)}\n"
            )
    return text


def show(host: Any, names: "list[str]") -> Output:
    shown = [end for end in ends(host) if end.up and (not names or end.pair.name in names)]
    if names and not shown:
        return 20, "", "received netlink error reply: No such device\n"
    text = ""
    for end in shown:
        local, remote = (address.replace(":", " ", 1) for address in addresses(end))
        text += f"resource {end.pair.name} {{\n    options {{\n    }}\n"
        if end.conn != STANDALONE:
            text += "    net {\n"
            if end.protocol != "C":
                text += f"        protocol        \t{end.protocol};\n"
            if end.two:
                text += "        allow-two-primaries\tyes;\n"
            text += f"    }}\n    _remote_host {{\n        address\t\t\t{remote};\n    }}\n"
        text += "    _this_host {\n"
        if end.conn != STANDALONE:
            text += f"        address\t\t\t{local};\n"
        text += f"        volume 0 {{\n            device\t\t\tminor {end.pair.minor};\n"
        if end.disk != DISKLESS:
            text += f'            disk\t\t\t"/dev/vg0/{end.pair.name}";\n'
            text += f'            meta-disk\t\t\t"/dev/vg0/{end.pair.name}_xhmeta";\n'
            text += "            disk {\n                fencing         \tresource-only;\n            }\n"
        text += "        }\n    }\n}\n\n"
    return 0, text, ""


def in_flight(end: End) -> str:
    """debugfs' in_flight_summary."""
    text = (
        "v: 0\n\noldest bitmap IO\nminor\tvnr\trw\tage\t#in-flight\n\noldest application requests\n"
        "n\tdevice\tvnr\tepoch\tsector\tsize\trw\tstart\tin AL\tsubmit\tsent\tacked\tdone\tstate\n"
    )
    # a write stays in the transfer log until the peer's barrier ack, completed or not
    pending = sorted({req for req in (*end.inflight, *end.log) if not req.acked or not req.done}, key=_age)
    if pending:
        req = pending[0]
        age = int((end.loop.now - req.start) * 1000)
        text += (
            f"{len(pending)}\t{end.pair.minor}\t0\t0x1ab\t{req.block * 8}\t8\tW\t{age}\t{age}\t-\t-\t-\t-"
            f"\t0x00218946\tmaster: {'completed' if req.done else 'pending'}\tlocal: in-AL\tnet: queued\n"
        )
    return text


def _age(req: Any) -> float:
    return float(req.start)


def drbdadm(process: Any, argv: "list[str]") -> Output:
    host = process.host
    words = argv[1:]
    if words[:1] == ["-c"]:
        if words[1] not in host.files.live:
            return 1, "", f"Can not open '{words[1]}': No such file or directory\n"
        words = words[2:]
    command, names = words[0], words[1:]
    discard = "--discard-my-data" in names
    if command == "sh-nop":
        return 0, "", ""
    for end in [end for end in ends(host) if end.pair.name in names]:
        if command in ("adjust", "up"):
            status = locked(process, end, _adjust)
        elif command == "connect":
            status = locked(process, end, lambda end: connect(end, discard))
        elif command == "down":
            status = down(end) if end.up else (0, "", "")
        elif command == "disconnect":
            status = locked(process, end, disconnect)
        else:
            raise AssertionError(f"drbdadm {command} isn't simulated")
        if status[0]:
            return status
    return 0, "", ""


def connect(end: End, discard: bool) -> Output:
    """drbd_adm_connect(), with protocol A, two-primaries no."""
    if not end.up:
        return 10, "", f"{end.pair.name}: Failure: (158) Unknown resource\n"
    if end.conn != STANDALONE:
        return 10, "", f"{end.pair.name}: Failure: (102) Local address(port) already in use.\n"
    if discard and end.role == PRIMARY:
        return 10, "", f"{end.pair.name}: Failure: (123) --discard-my-data not allowed when primary.\n"
    end.discard = discard
    end.connect("A", False)
    return 0, "", ""


def _adjust(end: End) -> Output:
    """The file says: attached, connected, protocol A, two-primaries no."""
    if not end.up:
        end.up = True
        end.attach()
    if end.conn == STANDALONE:
        return connect(end, False)
    if (end.protocol, end.two) != ("A", False):
        return change_options(end, "A", False)
    return 0, "", ""


def xl(process: Any, argv: "list[str]") -> Output:
    host = process.host
    command, rest = argv[1], argv[2:]
    if command == "list":
        return xl_list(host, rest)
    if command == "info":
        free = 4096 - sum(128 for _ in host.domains)
        return (
            0,
            (
                f"host                   : {host.name}\nvirt_caps              : pv hvm hap\n"
                f"free_memory            : {free}\nxen_commandline        : dom0_mem=768M,max:768M\n"
            ),
            "",
        )
    if command == "destroy":
        found = host.find(rest[0])
        if found is None:
            return 1, "", f"{rest[0]} is an invalid domain identifier (rc=-6)\n"
        from tests.sim import toolstack

        toolstack.destroy(process, found)
        return 0, "", ""
    if command in ("pause", "unpause", "resume"):
        found = host.find(rest[0])
        if found is None:
            return 1, "", f"{rest[0]} is an invalid domain identifier (rc=-6)\n"
        getattr(found, f"xl_{command}")()
        return 0, "", ""
    if command == "migrate" and host.find(rest[0]) is None:
        return 1, "", f"{rest[0]} is an invalid domain identifier (rc=-6)\n"
    if command == "create" and "--dryrun" in rest:
        return 1, "", "not simulated\n"
    raise AssertionError(f"xl {command} isn't simulated")


def xl_list(host: Any, rest: "list[str]") -> Output:
    listed = sorted(host.domains.values(), key=lambda domain: domain.domid)
    if rest[:1] == ["-v"]:
        text = "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID" + (
            "                            Reason-Code\tSecurity Label\n"
            "Domain-0                                     0   768     1     r-----     125.8 "
            "00000000-0000-0000-0000-000000000000        -                -\n"
        )
        for domain in listed:
            text += (
                f"{domain.name:<40} {domain.domid:>5}   128     1     {domain.flags}      18.8 {domain.uuid}"
            )
            text += "        -                -\n"
        return 0, text, ""
    if rest[:1] == ["-l"]:
        wanted = [host.find(rest[1])] if len(rest) > 1 else listed
        if None in wanted:
            return 1, "", f"{rest[1]} is an invalid domain identifier (rc=-6)\n"
        return 0, json.dumps([domain.describe() for domain in wanted if domain is not None]), ""
    raise AssertionError(f"xl list {rest} isn't simulated")


def shim(process: Any, argv: "list[str]") -> Output:
    """Our own xl, as the reconciler starts it: ``create --quiet --defconfig CONFIG``."""
    from tests.sim import toolstack

    vm = argv[-1].rsplit("/", 1)[-1].removesuffix(".cfg")
    status = toolstack.create(process, vm)
    return status, "", "" if status == 0 else "xl create failed\n"


def virsh(process: Any, argv: "list[str]") -> Output:
    """``virsh -c URI start VM``, as the reconciler has it."""
    from tests.sim import toolstack

    status = toolstack.create(process, argv[-1])
    return status, "", "" if status == 0 else "error: Failed to start domain\n"


SHIM = "/usr/lib/xenhelper/xl"
TOOLS = {"drbdsetup": drbdsetup, "drbdadm": drbdadm, XL: xl, SHIM: shim, "virsh": virsh}


def waits(argv: "list[str]") -> bool:
    """Whether the command may wait in the kernel or for other programs."""
    if argv[0] == "drbdsetup":
        return argv[1] in WAITS
    return argv[0] in (SHIM, "virsh") or (argv[0] == XL and argv[1] == "destroy")


__all__ = ["CONNECTED", "CONNECTING", "DUNKNOWN", "TOOLS", "waits"]
