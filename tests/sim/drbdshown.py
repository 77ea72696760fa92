"""What an 8.4 kernel and drbd-utils 9.22 tell of DRBD: ``drbdsetup events2``, ``show`` and
``show-gi``, /proc/drbd and debugfs. Texts are those of tests/unit/captured."""

from typing import Any

from tests.sim.drbdends import SIZE_KIB, addresses, ends
from tests.sim.end import CONNECTING, DISK, DISKLESS, PRIMARY, STANDALONE, End
from tests.sim.kernel import Output


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
