"""The block script's ``remove``: demote a disk, and as a migration's source close its window.

What steps down from Primary has more to look at than what promotes (stepdown.py), and
``add``, which runs in a guest's downtime, mustn't pay for importing it.
"""

import os

from xenhelper import handed, hotplug, log, steady, stepdown
from xenhelper.drbd import events


def remove(disk: hotplug.Disk, wait: float = 10.0, seconds: float = 22.0) -> None:
    """Demote; as a migration's source, close the window. Raises XenhelperError.

    ``wait``: seconds for another who is at it, ``seconds``: for the demotion.
    """
    held = hotplug.lock(disk.resource, wait)
    try:
        resource = events.one(disk.resource)
        if resource is None or resource.minor < 0 or disk.other_users():
            return
        if resource.connected:
            hotplug.met(disk.resource)
        ran = disk.vm if disk.domain == disk.vm else ""
        before = stepdown.step_down(disk.resource, disk.peer, ran, seconds)
        hotplug.drop_pages(disk.record.get("volume", ""))
        wanted = disk.record.get("protocol", "A")
        ours = before is not None and before.role == events.PRIMARY
        if resource.connected and (ours or not steady.closed(resource, wanted)):
            steady.close(disk.resource, wanted)
        if not ours:
            return  # an `add` that failed, or ahead.py was here: this host has nothing to let go
        log.event(
            "removed",
            f"{disk.resource} is no domain's disk now",
            vm=disk.vm,
            resource=disk.resource,
            seconds=disk.seconds,
        )
        if disk.incoming:
            return  # a migration that failed: it never ran here, and the other host's word counts
        # a migration's source lets go after its destination began: the VM is over there now.
        # Its destination may let go before the reconciler has noted that it ran here.
        last = disk.peer if disk.away else ran and disk.record.get("host", "")
        hotplug.note(disk, let_go_at=hotplug.now(), **({"last_ran": last} if last else {}))
        handed.forget(disk.vm)
    finally:
        os.close(held)
