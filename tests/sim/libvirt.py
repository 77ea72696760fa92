"""libvirt's driver for Xen as docs/libvirt.md has it, by its source: start, destroy, migrate.

Runs the real hook (virt/hook.py) where libvirt does, with the domain's lock held. Disks are
given out by libxl's own block script, which asks nobody: a device that isn't Primary then
can't be opened.
"""

from typing import Any

from tests.sim.end import PRIMARY
from tests.sim.guest import Backend
from tests.sim.kernel import Killed, Process
from tests.sim.toolstack import Domain, Pipe, base

JOB_WAIT = 30.0  # seconds for another job of the VM's to end (libxl_domain.h)


class VirtDomain(Domain):
    """A domain of libvirt; ``held``: paused by ``xl pause`` besides."""

    def __init__(self, host: Any, name: str, uuid: str, guest: Any) -> None:
        super().__init__(host, name, uuid, guest)
        host.store.put(f"/local/domain/{self.domid}/vm", f"/vm/{uuid}")
        self.held = False
        self.resumed = False

    @property
    def flags(self) -> str:
        letters = super().flags
        return letters[:2] + "p" + letters[3:] if self.held else letters

    def resume(self) -> None:
        """libxl_domain_resume(): it runs, unless it is paused besides."""
        if self.held:
            self.state, self.resumed = "paused", True
        else:
            super().resume()

    def xl_pause(self) -> None:
        self.held = True
        if self.state == "running":
            self.guest.stop()
            self.state, self.resumed = "paused", True

    def xl_unpause(self) -> None:
        self.held = False
        if self.resumed and self.state == "paused":
            self.resumed = False
            super().resume()

    def xl_resume(self) -> None:
        if self.state == "suspended":
            self.resume()


class Daemon:
    """What the hook sees as its parent."""

    def __init__(self, world: Any) -> None:
        self.pid = world.next_pid()
        self.status = None
        self.dead = False


def xml(world: Any, vm: str, uuid: str) -> str:
    disks = "".join(
        f"<disk type='block' device='disk'><driver name='phy' type='raw'/>"
        f"<source dev='/dev/drbd{world.pairs[name].minor}'/><target dev='{name[-4:]}' bus='xen'/></disk>"
        for name in world.guests[vm].resources
    )
    return (
        f"<domain type='xen'><name>{vm}</name><uuid>{uuid}</uuid><memory unit='KiB'>131072</memory>"
        f"<os><type machine='xenpvh'>xenpvh</type></os><devices>{disks}</devices></domain>"
    )


def hook(process: Process, vm: str, uuid: str, operation: str) -> int:
    """One call of the hook; libvirt waits for it, however long it takes."""
    from xenhelper.virt import hook as product

    host, world = process.host, process.world
    if not hasattr(host, "daemon") or host.daemon[0] != host.boots:
        host.daemon = (host.boots, Daemon(world))
    name = {"start": "block add", "release": "block remove"}.get(operation, f"block {operation}")
    # it calls this one with nothing (libxlDomainMigrationPrepareAny in 9.0.0 and 11.3.0)
    text = "" if operation == "migrate" else xml(world, vm, uuid)
    child = world.product(host, name, lambda: product.called(vm, operation, text))
    child.parent = host.daemon[1]
    host.hooked.add(vm)
    try:
        child.start(0.03)
        if not process.wait(child, 200.0):
            world.promises.broken("bounded", f"{child} took longer than 200 s")
            child.kill()
    finally:
        host.hooked.discard(vm)
    world.trace(host, f"hook {operation}[{child.pid}] ended with {child.status}")
    return int(child.status if child.status is not None else 1)


def _attach(process: Process, domain: VirtDomain) -> bool:
    host, world = domain.host, domain.world
    if domain.domid not in host.domains:
        return False
    for number, resource in enumerate(domain.guest.resources):
        node, pair = base(domain, number), world.pairs[resource]
        host.store.put(f"{node}/params", f"/dev/drbd{pair.minor}")
        host.store.put(f"{node}/script", "/etc/xen/scripts/block")
        host.store.put(f"{node}/mode", "w")
    process.block(0.05 + world.random.random() * 0.2)
    for number, resource in enumerate(domain.guest.resources):
        end = world.pairs[resource].ends[host.index]
        if end.role != PRIMARY or domain.domid not in host.domains:
            return False  # blkback can't open it
        host.store.put(f"{base(domain, number)}/physical-device", f"93:{end.pair.minor:x}")
        domain.backends[resource] = Backend(domain, end)
        domain.backends[resource].connect()
    return True


def _gone(process: Process, domain: VirtDomain) -> None:
    """libxl_domain_destroy()."""
    host, world = domain.host, domain.world
    if domain.state == "dying" or domain.domid not in host.domains:
        return
    before = domain.state
    domain.was_suspended = before == "suspended"
    if domain.guest.domain is domain:
        domain.guest.stop()
        domain.guest.domain = None
    domain.state = "dying"
    try:
        for backend in domain.backends.values():
            world.loop.at(world.random.random() * 0.6, backend.close)
        process.block(0.05 + world.random.random() * 0.2)
    except Killed:
        domain.state = before
        raise
    host.store.drop(f"backend/vbd/{domain.domid}")
    host.store.drop(f"/local/domain/{domain.domid}")
    host.domains.pop(domain.domid, None)
    host.store.fire("@releaseDomain")


def destroy(process: Process, domain: VirtDomain) -> None:
    """virsh destroy, or the guest's own end: domain, then the hook."""
    host = domain.host
    mine = domain.name not in host.jobs  # else it is a part of that job, which goes on
    if mine:
        host.jobs[domain.name] = domain.world.loop.now
    try:
        _gone(process, domain)
        hook(process, domain.name, domain.uuid, "release")
    finally:
        if mine:
            host.jobs.pop(domain.name, None)


def start(process: Process, vm: str) -> int:
    """virsh start."""
    host, world = process.host, process.world
    process.block(0.1 + world.random.random() * 0.3)
    until = world.loop.now + JOB_WAIT
    while vm in host.jobs and world.loop.now < until:
        process.block(0.1)
    if host.find(vm) is not None or vm in host.jobs:
        return 3
    host.jobs[vm] = world.loop.now
    uuid = f"753dac86-3e3b-4a61-902e-0000000000{list(world.guests).index(vm):02x}"
    try:
        if hook(process, vm, uuid, "start"):
            hook(process, vm, uuid, "release")
            return 3
        process.block(0.05 + world.random.random() * 0.3)
        domain = VirtDomain(host, vm, uuid, world.guests[vm])
        if not _attach(process, domain):
            _gone(process, domain)
            hook(process, vm, uuid, "release")
            return 3
        domain.state = "running"
        domain.guest.start(domain)
        status = hook(process, vm, uuid, "started")
        if status:
            if status == -9:
                world.unheard.add(vm)  # a hook that is killed has failed, and whoever killed it knows
            else:
                world.promises.broken("needless refusal", f"{vm} was started, and is destroyed")
            _gone(process, domain)
            hook(process, vm, uuid, "release")
            return 3
        return 0
    finally:
        host.jobs.pop(vm, None)


def migrate(process: Process, vm: str, to: str) -> int:
    """virsh migrate --live, the source's daemon (Begin, Perform, Confirm) and the client."""
    host, world = process.host, process.world
    random = world.random
    domain = host.find(vm)
    there = world.hosts[to]
    if domain is None or domain.state != "running" or vm in host.jobs:
        return 2
    host.jobs[vm] = world.loop.now
    try:
        link = world.ssh
        if not link.up or not there.power:
            process.block(1.0 + random.random() * 4)
            return 2
        other = Process(world, there, f"libxl-save-helper {vm}", lambda: receive(other, pipe, vm, domain))
        pipe = Pipe(world, link, (process, other))
        other.start(0.2)
        if pipe.receive(0) != "prepared":
            return 2
        process.name = f"libxl-save-helper {vm}"
        if pipe.receive(0) != "reads":
            return 2  # Perform failed in the pre-copy; the guest runs on
        domain.guest.hot = random.random() < 0.6
        for _ in range(random.choice((1, 2, 6))):
            process.block(0.2 + random.random())
            if pipe.broken[0] or domain.state != "running":
                return 2
        domain.suspend()
        domain.guest.hot = False
        process.block(0.1 + random.random() * random.choice((0.1, 0.5, 2.0)))
        pipe.send(0, "stream")
        answer = pipe.receive(0)
        process.name = "virsh"
        if answer == "restored":
            pipe.send(0, "finish")
            answer = pipe.receive(0)
        if answer == "running" and random.random() >= world.flaky:
            if domain.domid in host.domains:
                _gone(process, domain)
                hook(process, vm, domain.uuid, "release")
            return 0
        # Confirm, cancelled: libvirt 9 resumes whatever the destination does, libvirt 11 doesn't
        if random.random() < 0.5 and domain.domid in host.domains and domain.state == "suspended":
            domain.resume()
        return 2
    finally:
        host.jobs.pop(vm, None)


def receive(process: Process, pipe: Pipe, vm: str, source: VirtDomain) -> int:
    """The destination's daemon: Prepare, the stream's thread, Finish."""
    host, world = process.host, process.world
    if host.find(vm) is not None or vm in host.jobs:
        return 2
    host.jobs[vm] = world.loop.now
    domain: "VirtDomain | None" = None
    try:
        hook(process, vm, source.uuid, "migrate")
        pipe.send(1, "prepared")
        if hook(process, vm, source.uuid, "start"):
            raise ConnectionError
        domain = VirtDomain(host, vm, source.uuid, source.guest)
        domain.migrated = True
        pipe.send(1, "reads")
        if pipe.receive(1) != "stream" or not _attach(process, domain):
            raise ConnectionError
        process.block(0.1)
        process.name = "virsh"
        if domain.domid not in host.domains or hook(process, vm, source.uuid, "started"):
            raise ConnectionError
        pipe.send(1, "restored")
        if pipe.receive(1) != "finish":
            return 2  # nobody asks for Finish: it stays paused, and the job with it
        if domain.state != "paused" or domain.held:
            raise ConnectionError
        domain.state = "running"
        domain.guest.start(domain)
        pipe.send(1, "running")
        process.block(0.3)
        host.jobs.pop(vm, None)
        return 0
    except ConnectionError:
        if domain is not None:
            _gone(process, domain)
        hook(process, vm, source.uuid, "release")
        host.jobs.pop(vm, None)
        pipe.send(1, "failed")
        process.block(0.2)
        return 2
