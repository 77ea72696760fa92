"""At which steps a first `xl create` is killed: from the product's own list of its steps."""

from __future__ import annotations

from dataclasses import dataclass

from xenhelper import crashpoints

from . import faults, product, scenario
from .lab import Lab

SOURCE, TARGET = "alice", "bob"
VM = "web1"
RESOURCES = [f"{VM}-xvda", f"{VM}-xvdb"]
SIDES = {
    "consider": (SOURCE,), "numbers": (SOURCE,), "replicate": (SOURCE,), "hotplug": (SOURCE,),
    "provision": (SOURCE, TARGET), "vmfile": (SOURCE, TARGET),
}  # fmt: skip
# steps that only one side takes
ONLY = {
    "provision:make_volumes:volumes.create#1": TARGET,
    "provision:tag_data:volumes.change_tags": SOURCE,
    "provision:promote_once:verbs.primary": SOURCE,
    "provision:promote_once:verbs.secondary": SOURCE,
}
# what a first create that nothing disturbs doesn't do
ELSEWHERE = (
    "provision:undo:", "provision:_take_back:", "provision:_remove_volumes:", "provision:resources_up:",
    "provision:rename_vdev:", "provision:_write_resource_file:bringup.adm", "replicate:undo_both:",
    "replicate:_again:", "numbers:unlease:", "numbers:preview:", "consider:_roomiest:", "hotplug:add:",
    "hotplug:_up:", "hotplug:_fail:", "hotplug:met:", "hotplug:_no_start:",
    "hotplug:_promote:verbs.secondary", "hotplug:_promote:permits.valid",
)  # fmt: skip
# single steps of modules that serve others, too
SHARED = {
    "tuning.apply:leave_for_udev:statefile.write_atomically": (SOURCE, TARGET),
    "tuning.probes:mark:statefile.write_atomically": (SOURCE, TARGET),
    "handed:forget:statefile.remove": (SOURCE,),
}
# what changes nothing anywhere: killed there is killed before the step that follows
READS = (
    "consider:consider:volumes.facts", "consider:_still_open:volumes",
    "replicate_peer:serve_look:volumes.facts",
    "xen.vmconfig:dry_run:run", "xen.domains:listing:run", "drbd.show:settings:run",
    "tuning.link:device_of:run", "tuning.blockdev:tables:run",
)  # fmt: skip
# the reconciler's and the watcher's, who come by meanwhile
OTHERS = ("reconcile:", "insync:", "watch.", "halfopen:")
# done for each disk: the target is killed at its second one
PER_DISK = (
    "provision:make_volumes:volumes.create#2", "provision:build:adm.create_md",
    "provision:write_records:statefile.write",
)  # fmt: skip
WRITE = "provision:_write:intents.write"


@dataclass(frozen=True)
class Kill:
    """One host's process is killed at one step."""

    host: str
    order: str

    @property
    def id(self) -> str:
        when, _, rest = self.order.partition(" ")
        step = rest.replace(" < provision:", ".").replace(" ", ".").replace(":", ".")
        return f"{self.host}-{when}-{step}"


def names() -> list[str]:
    """The steps that change something in a first create, in the order of the sources."""
    found = [point.name for module in SIDES for point in crashpoints.points(module)]
    return [name for name in found if not name.startswith(ELSEWHERE) and name not in READS] + [*SHARED]


def kills() -> list[Kill]:
    """Before every step on every host that takes it; after the target's last one, too."""
    found = []
    for name in names():
        for host in SHARED.get(name) or SIDES[name.partition(":")[0]]:
            if ONLY.get(name, host) != host:
                continue
            if name == WRITE:
                outer = ("provision:reserve", "provision:commit_intent")
                found += [Kill(host, f"before {name} < {caller}") for caller in outer]
                continue
            count = " 2" if host == TARGET and name in PER_DISK else ""
            found.append(Kill(host, f"before {name}{count}"))
    for step in ("provision:build:adm.up", "provision:done:intents.remove"):
        found.append(Kill(TARGET, f"after {step}"))
    return found


def unattended() -> list[Kill]:
    """Those of the acting host that leave something for the reconciler."""
    prefix = ("before provision:", "before replicate:", "before vmfile:")
    return [
        kill for kill in kills()
        if kill.host == SOURCE and kill.order.startswith(prefix) and not kill.order.endswith(":reserve")
    ]  # fmt: skip


def prepare(lab: Lab) -> dict[str, str]:
    """web1's volumes with random bytes where the guest never writes; their checksums."""
    scenario.write_web1(lab)
    for name, size in scenario.VOLUMES.items():
        for start in (0, size - 4):
            lab.alice.run(
                f"dd if=/dev/urandom of=/dev/vg0/{name} bs=1M seek={start} count=4 oflag=direct status=none"
            )
    return sums(lab, "alice")


def sums(lab: Lab, host: str) -> dict[str, str]:
    """The checksums of those parts on one host."""
    return {
        f"{name} at {start} MiB": product.checksum(lab.host(host), f"/dev/vg0/{name}", start, 4)
        for name, size in scenario.VOLUMES.items()
        for start in (0, size - 4)
    }


def killed_create(lab: Lab, kill: Kill) -> int:
    """`xl create`, killed on the way; xl's exit status. Fails when the step never came."""
    host = lab.host(kill.host)
    faults.arm(host, kill.order)
    status = lab.alice.run(f"xl create /etc/xen/{VM}.cfg", 300, check=False).status
    assert not faults.disarm(host), f"a first create doesn't come to {kill.order!r} on {kill.host}"
    return status


def leftovers(lab: Lab, made: bool) -> list[str]:
    """What no finished (or undone) create leaves on either host."""
    wrong = []
    for host in lab.hosts:
        data = set(scenario.VOLUMES) if made or host.name == SOURCE else set()
        wanted = data | ({f"{name}_xhmeta" for name in data} if made else set())
        found = set(host.out("lvs --noheadings -o lv_name vg0").split())
        if found != wanted:
            wrong.append(f"{host.name}: volumes {sorted(found)}, not {sorted(wanted)}")
        for folder, kept in (
            ("/var/lib/xenhelper/intents", []),
            ("/var/lib/xenhelper/resources", RESOURCES if made else []),
            ("/etc/drbd.d", [f"{VM}.res"] if made else []),
        ):
            there = host.run(f"ls -A {folder} 2>/dev/null | grep -v '[.]conf$'", check=False).out.split()
            if sorted(there) != sorted(kept):
                wrong.append(f"{host.name}: {folder} holds {there}, not {kept}")
        up = host.read("/proc/drbd").count(" cs:")
        if up != (len(RESOURCES) if made else 0):
            wrong.append(f"{host.name}: {up} minors are up")
        stray = host.out("find /etc/xen /var/lib/xenhelper -name '.*' -type f")
        if stray:
            wrong.append(f"{host.name}: {stray}")
    return wrong
