"""xl as facts.md has it: create, destroy, shutdown, migrate with its table of failures.

Runs the real block script (hotplug.main) as libxl does: all disks of a domain at once,
killed after 40 s, ``remove`` for every disk when an ``add`` fails, sometimes none at all.
"""

from typing import Any

from tests.sim.guest import Backend, Guest
from tests.sim.kernel import Killed, Process
from xenhelper import paths

INCOMING, AWAY = "--incoming", "--migratedaway"
HOTPLUG_TIMEOUT = 40.0


class Domain:
    """A domain on a host. ``state``: paused, running, suspended, dying."""

    def __init__(self, host: Any, name: str, uuid: str, guest: Guest) -> None:
        self.host = host
        self.world = host.world
        self.name = name
        self.uuid = uuid
        self.guest = guest
        self.state = "paused"
        self.migrated = False
        self.was_suspended = False
        self.resumed_at = -1e9
        self.backends: "dict[str, Backend]" = {}
        self.attached: "list[str]" = []
        self.domid = host.new_domid()
        host.domains[self.domid] = self
        host.store.put(f"/local/domain/{self.domid}/name", name)

    @property
    def flags(self) -> str:
        """The letters of ``xl list``. While `remove` runs, libxl has paused the domain; it asks
        the hypervisor to destroy it when its name is gone already (libxl__destroy_domid())."""
        if self.state == "dying":
            return "--pss-" if self.was_suspended else "--p---"
        return {"running": "-b----", "paused": "--p---", "suspended": "---ss-"}[self.state]

    def rename(self, name: str) -> None:
        self.name = name
        self.host.store.put(f"/local/domain/{self.domid}/name", name)

    def suspend(self) -> None:
        """The guest writes to the very end, and what is in the ring goes on."""
        if self.state == "running":
            self.guest.burst(self.world.random.choice((0, 2, 6)))
            self.guest.stop()
        self.state = "suspended"
        self.host.store.fire("@releaseDomain")

    def resume(self) -> None:
        self.state = "running"
        self.resumed_at = self.world.loop.now
        self.world.promises.resumed(self)
        for backend in self.backends.values():
            backend.resumed()
        self.guest._schedule()

    def describe(self) -> "dict[str, Any]":
        return {
            "domid": self.domid,
            "config": {
                "c_info": {"type": "pvh", "name": self.name, "uuid": self.uuid},
                "b_info": {"max_memkb": 131072, "type.pvh": {}},
                "disks": [
                    {
                        "pdev_path": resource,
                        "vdev": resource.rsplit("-", 1)[1],
                        "format": "raw",
                        "script": "/etc/xen/scripts/" + paths.BLOCK_SCRIPT,
                        "readwrite": 1,
                    }
                    for resource in self.guest.resources
                ],
                "nics": [{"bridge": "xenbr0"}],
            },
        }

    def __repr__(self) -> str:
        return f"{self.host.name}:{self.name}({self.state})"


def base(domain: Domain, number: int) -> str:
    return f"backend/vbd/{domain.domid}/{51712 + 16 * number}"


def attach(process: Process, domain: Domain) -> bool:
    """``add`` for all disks, in parallel. Whether all went well."""
    host, world = domain.host, domain.world
    scripts = []
    for number, resource in enumerate(domain.guest.resources):
        node = base(domain, number)
        for key, value in (
            ("params", resource), ("script", "/etc/xen/scripts/" + paths.BLOCK_SCRIPT), ("mode", "w"),
            ("type", "phy"), ("online", "1"), ("state", "2"), ("dev", resource.rsplit("-", 1)[1]),
        ):  # fmt: skip
            host.store.put(f"{node}/{key}", value)
        domain.attached.append(resource)
        scripts.append(world.block_script(process, host, "add", node))
    if world.kill_at_add and domain.name.endswith(INCOMING):
        world.kill_at_add = False
        world.trace(host, f"### kill -9 {process}")
        world.loop.at(0.0, process.kill)
    if world.lose_ssh_at_add and process in world.ssh_of:
        world.lose_ssh_at_add = False
        world.trace(host, f"### the ssh to {process} is gone")
        world.loop.at(0.0, world.ssh_of[process]._break, 0)
    ok = True
    deadline = world.loop.now + HOTPLUG_TIMEOUT
    for script in scripts:
        if not process.wait(script, max(0.0, deadline - world.loop.now)):
            world.promises.broken("bounded", f"{script} took longer than 40 s")
            script.kill()
        ok = ok and script.status == 0
    if not ok or domain.domid not in host.domains or domain.state == "dying":
        return False  # (somebody destroys it: with its folder gone, blkback opens nothing)
    for number, resource in enumerate(domain.guest.resources):
        if not host.store.get(base(domain, number) + "/physical-device"):
            world.promises.broken("available", f"{domain}: add succeeded without physical-device")
        backend = domain.backends[resource] = Backend(domain, world.pairs[resource].ends[host.index])
        world.loop.at(world.random.random() * 0.1, backend.connect)
    return True


def destroy(process: Process, domain: Domain) -> None:
    """libxl_domain_destroy: guest gone, devices closed, ``remove`` run, nodes removed."""
    if domain.state == "dying":
        return
    if domain.world.libvirt:
        from tests.sim import libvirt

        libvirt.destroy(process, domain)
        return
    before = domain.state
    domain.was_suspended = before == "suspended"
    if domain.guest.domain is domain:
        domain.guest.stop()
        domain.guest.domain = None
    domain.state = "dying"
    try:
        _destroy(process, domain)
    except Killed:
        domain.state = "suspended" if before == "suspended" else "paused"
        raise


def _destroy(process: Process, domain: Domain) -> None:
    host, world = domain.host, domain.world
    for backend in domain.backends.values():
        # Closed shows in xenstore before blkback has let go
        world.loop.at(world.random.random() * 0.6, backend.close)
    process.block(0.05 + world.random.random() * 0.2)
    for number in range(len(domain.attached)):
        host.store.put(f"{base(domain, number)}/online", "0")
        host.store.put(f"{base(domain, number)}/state", "6")
        process.block(world.random.choice((0.0, 0.01, 0.5)) * world.random.random())
    scripts = []
    for number, resource in enumerate(domain.guest.resources):
        if resource in domain.attached and world.random.random() > world.skip_remove:
            scripts.append(world.block_script(process, host, "remove", base(domain, number)))
    deadline = world.loop.now + HOTPLUG_TIMEOUT
    for script in scripts:
        if not process.wait(script, max(0.0, deadline - world.loop.now)):
            world.promises.broken("bounded", f"{script} took longer than 40 s")
            script.kill()
    host.store.drop(f"backend/vbd/{domain.domid}")
    host.store.drop(f"/local/domain/{domain.domid}")
    host.domains.pop(domain.domid, None)
    host.store.fire("@releaseDomain")


def create(process: Process, vm: str) -> int:
    """xl create of a config whose disks have our script."""
    host, world = process.host, process.world
    if world.libvirt:
        from tests.sim import libvirt

        return libvirt.start(process, vm)
    process.block(0.1 + world.random.random() * 0.5)
    if host.find(vm) is not None:
        return 3
    domain = Domain(host, vm, world.new_uuid(), world.guests[vm])
    process.block(0.05)
    if not attach(process, domain):
        destroy(process, domain)
        return 3
    process.block(0.11 + world.random.random() * 0.3)
    if domain.state != "paused":
        return 3
    domain.state = "running"
    domain.guest.start(domain)
    return 0


class Pipe:
    """ssh between two xl: in order, stuck while its path is cut, broken when that lasts."""

    def __init__(self, world: Any, link: Any, ends: "tuple[Process, Process]") -> None:
        self.world = world
        self.link = link
        self.ends = ends
        self.inbox: "tuple[list[str], list[str]]" = ([], [])
        self.broken = [False, False]
        self.waiting: "list[int | None]" = [None, None]
        for index, process in enumerate(ends):
            process.on_end.append(lambda _, index=index: self._gone(index))

    def _gone(self, index: int) -> None:
        seconds = 0.01 + self.world.random.random() * (0.3 if self.link.up else 20.0)
        self.world.loop.at(seconds, self._break, 1 - index)

    def _break(self, side: int) -> None:
        self.broken[side] = True
        self._wake(side)

    def _wake(self, side: int) -> None:
        token = self.waiting[side]
        if token is not None:
            self.waiting[side] = None
            self.ends[side].wake(token, "pipe")

    def send(self, side: int, message: str, tries: int = 0) -> None:
        """From ``side`` to the other."""
        if self.broken[side]:
            return
        if self.link.up:
            self.world.loop.at(0.01 + self.world.random.random() * 0.1, self._deliver, 1 - side, message)
        elif tries > 30:
            self._break(0)
            self._break(1)
        else:
            self.world.loop.at(0.5 + self.world.random.random() * 0.3, self.send, side, message, tries + 1)

    def _deliver(self, side: int, message: str) -> None:
        if not self.broken[side]:
            self.inbox[side].append(message)
            self._wake(side)

    def receive(self, side: int) -> str:
        """The next message, "" when the other end is gone."""
        process = self.ends[side]
        while not self.inbox[side]:
            if self.broken[side]:
                return ""
            self.waiting[side] = process.next_token()
            if process.block(60.0) == "timeout":
                self.broken[side] = True
        return self.inbox[side].pop(0)


def migrate(process: Process, vm: str, to: str) -> int:
    """xl migrate, the source's half (save/restore stream left out)."""
    host, world = process.host, process.world
    domain = host.find(vm)
    if domain is None or domain.state != "running":
        return 2
    there = world.hosts[to]
    process.block(0.1 + world.random.random() * 0.5)
    link = world.ssh
    if not link.up or not there.power:
        process.block(1.0 + world.random.random() * 4)
        return 2
    other = Process(world, there, f"xl migrate-receive {vm}", lambda: receive(other, pipe, vm, domain))
    pipe = world.ssh_of[other] = Pipe(world, link, (process, other))
    other.start(0.2)
    if pipe.receive(0) != "willing":
        return 2
    # some guests write all the while, which is what a barrier is for
    domain.guest.hot = world.random.random() < 0.6
    for _ in range(world.random.choice((1, 2, 6))):
        process.block(0.2 + world.random.random())
        if pipe.broken[0] or domain.state != "running":
            return 2
    domain.suspend()
    domain.guest.hot = False
    process.block(0.1 + world.random.random() * world.random.choice((0.1, 0.5, 2.0)))
    pipe.send(0, "stream")
    answer = pipe.receive(0)
    if answer != "ready" or world.random.random() < world.flaky:
        # "Migration failed, resuming at sender"
        process.block(0.05)
        if domain.state == "suspended":
            domain.resume()
        return 2
    domain.rename(vm + AWAY)
    process.block(0.02)
    pipe.send(0, "go")
    answer = pipe.receive(0)
    if answer == "done":
        destroy(process, domain)
        return 0
    if answer == "failed":
        domain.rename(vm)
        if domain.state == "suspended":
            domain.resume()
        return 2
    # "not clear whether migration succeeded": stays suspended under this name
    return 2


def receive(process: Process, pipe: Pipe, vm: str, source: Domain) -> int:
    """xl migrate-receive, the destination's half."""
    host, world = process.host, process.world
    process.block(0.1)
    if host.find(vm + INCOMING) is not None or host.find(vm) is not None:
        return 2
    domain = Domain(host, vm + INCOMING, source.uuid, source.guest)
    domain.migrated = True
    pipe.send(1, "willing")
    if pipe.receive(1) != "stream":
        destroy(process, domain)
        return 2
    if not attach(process, domain):
        destroy(process, domain)
        pipe.send(1, "failed")
        process.block(0.2)
        return 2
    process.block(0.12)
    if domain.domid not in host.domains:  # somebody destroyed it
        pipe.send(1, "failed")
        process.block(0.2)
        return 2
    pipe.send(1, "ready")
    if pipe.receive(1) != "go":
        return 2  # the copy stays, and its device open
    if domain.domid not in host.domains:
        pipe.send(1, "failed")
        process.block(0.2)
        return 2
    domain.rename(vm)
    process.block(0.02)
    if domain.state != "paused" or world.random.random() < world.flaky:
        destroy(process, domain)
        pipe.send(1, "failed")
        process.block(0.2)
        return 2
    domain.state = "running"
    domain.guest.start(domain)
    pipe.send(1, "done")
    process.block(0.3)
    return 0
