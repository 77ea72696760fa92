"""Keep DRBD devices' read-ahead in dom0: Linux 6.1 sets it anew at each connect (DRBD then
takes over its backing device's limits), and no event tells. For xenhelper-watch, which
looks every few seconds anyway; no fork."""

from collections.abc import Iterable, Mapping

from xenhelper import paths
from xenhelper.tuning.blockdev import read

_PREFIX = "XENHELPER_READ_AHEAD="


def look(records: Iterable[Mapping[str, str]]) -> int:
    """Put back what was lost; how many devices that was. What can't be set is left: the
    next `xenhelper tune` says why."""
    mended = 0
    for record in records:
        name = f"drbd{record.get('minor', '')}"
        wanted = read(f"{paths.RUN}/read-ahead/{name}").removeprefix(_PREFIX)
        path = f"{paths.ROOT}/sys/block/{name}/queue/read_ahead_kb"
        if not wanted.isdecimal() or read(path) in ("", wanted):
            continue
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(wanted)
            mended += 1
        except OSError:
            pass
    return mended
