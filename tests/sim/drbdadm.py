"""drbdadm: its files say attached, connected, protocol A, two-primaries no."""

from typing import Any

from tests.sim.drbdends import ends
from tests.sim.drbdsetup import change_options, disconnect, down, locked
from tests.sim.end import PRIMARY, STANDALONE, End
from tests.sim.kernel import Output


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
