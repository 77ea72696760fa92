"""What the next `xl create` of each VM will copy to the peer."""

import glob
import time

from xenhelper import config, paths, policy, units, volumes
from xenhelper.errors import XenhelperError
from xenhelper.xen import domains, vmconfig

# seconds for all configs together: a hint isn't worth more
BUDGET = 120.0


def lines() -> list[str]:
    """One line for each VM config in /etc/xen; files that xl can't read are named too."""
    found = []
    conf = config.load()
    rules = policy.Rules(conf.volume_groups, conf.exclude_volumes, conf.exclude_vms, conf.shared_volumes)
    xl = domains.real_xl()
    facts = policy.Facts(tuple(volumes.volumes()), {}, {})
    deadline = time.monotonic() + BUDGET
    for path in sorted(glob.glob(paths.ROOT + "/etc/xen/*.cfg")):
        if time.monotonic() > deadline:
            found.append("(there are more; that took long enough)")
            break
        try:
            parsed = vmconfig.dry_run(xl, path)
        except XenhelperError as error:
            found.append(f"{path}: left out here: {error.what}")
            continue
        line = _line(conf.host, parsed, rules, facts)
        if line:
            found.append(line)
    return found


def _line(host: str, parsed: vmconfig.Parsed, rules: policy.Rules, facts: policy.Facts) -> str:
    if policy.excluded(parsed.name, rules):
        return ""
    decisions = policy.decide(parsed.name, parsed.disks, rules, facts)
    disks = [d for d in decisions if d.action == policy.REPLICATE and d.volume is not None]
    if not disks:
        return ""
    total = sum(disk.volume.size for disk in disks if disk.volume is not None)
    shown = ", ".join(disk.volume.full_name for disk in disks if disk.volume is not None)
    return f"{parsed.name} on {host}: its next `xl create` syncs {total / units.GIB:.2f} GiB ({shown})"
