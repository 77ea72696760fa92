"""What DRBD's news start on a host: its handler of a split brain, and the watcher's look.

(The fence-peer handler, whose answer DRBD waits for, is world.py's.)
"""

from tests.sim.end import End
from xenhelper.errors import XenhelperError


def split_brain(end: End) -> None:
    """The kernel calls the split-brain handler; what it answers doesn't matter."""
    from xenhelper import drbdevent

    end.world.product(
        end.host,
        "split-brain",
        lambda: drbdevent.main(["drbd-event", "split-brain"]),
        DRBD_RESOURCE=end.pair.name,
    ).start(0.02)


def connected(end: End) -> None:
    """The watcher looks some time later (watch/daemon.py), where that can change anything."""
    from xenhelper import dead, paths, statefile
    from xenhelper.drbd import proc

    world = end.world

    def look() -> int:
        records = ((name, statefile.read(f"{paths.RESOURCES}/{name}")) for name in world.pairs)
        try:
            dead.met(proc.read()[1], {name: record for name, record in records if record})
        except XenhelperError as error:
            world.trace(end.host, f"watch: {error}")
        return 0

    folders = (paths.PERMITS + "/", paths.RUN + "/dead/")
    if any(path.startswith(folders) for path in end.host.files.live):
        world.product(end.host, "watch", look).start(0.1 + world.random.random() * 1.4)
