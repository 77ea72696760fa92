"""The block script's ``remove``: demote a disk, and as a migration's source close its window.

What steps down from Primary has more to look at than what promotes (stepdown.py), and
``add``, which runs in a guest's downtime, mustn't pay for importing it.
"""

import os

from xenhelper import handed, hotplug, log, steady, stepdown
from xenhelper.drbd import events


def remove(disk: hotplug.Disk) -> None:
    """Demote; as a migration's source, close the window. Raises XenhelperError."""
    held = hotplug.lock(disk.resource, 10.0)
    try:
        resource = events.one(disk.resource)
        if resource is None or resource.minor < 0 or disk.other_users():
            return
        if resource.connected:
            hotplug.met(disk.resource)
        before = stepdown.step_down(disk.resource, disk.peer, disk.vm if disk.domain == disk.vm else "", 22.0)
        hotplug.drop_pages(disk.record.get("volume", ""))
        if resource.connected:
            steady.close(disk.resource, disk.record.get("protocol", "A"))
        log.event(
            "removed",
            f"{disk.resource} is no domain's disk now",
            vm=disk.vm,
            resource=disk.resource,
            seconds=disk.seconds,
        )
        if before is None or before.role != events.PRIMARY:
            return  # an `add` that failed: this host had nothing to let go
        if disk.incoming:
            return  # a migration that failed: it never ran here, and the other host's word counts
        # a migration's source lets go after its destination began: the VM is over there now
        away = disk.away and disk.peer
        hotplug.note(disk, let_go_at=hotplug.now(), **({"last_ran": disk.peer} if away else {}))
        handed.forget(disk.vm)
    finally:
        os.close(held)
