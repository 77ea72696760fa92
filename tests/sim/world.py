"""Two hosts, the paths between them, and the processes that run there."""

import random as randomlib
from collections.abc import Callable
from typing import Any

from tests.sim import here, store, toolstack
from tests.sim.end import End
from tests.sim.files import Files
from tests.sim.guest import Guest
from tests.sim.kernel import Killed, Loop, Process
from tests.sim.net import Link
from tests.sim.pair import Pair
from tests.sim.promises import Promises
from xenhelper import paths
from xenhelper.errors import XenhelperError

HOSTS = ("alice", "bob")
BLOCKS = 8


class Host:
    """A host: files, xenstore, domains, processes."""

    def __init__(self, world: "World", name: str, index: int) -> None:
        self.world = world
        self.name = name
        self.index = index
        self.files = Files()
        self.store = store.Store()
        self.domains: "dict[int, toolstack.Domain]" = {}
        self.processes: "dict[int, Process]" = {}
        self.power = True
        self.serving = True
        self.slow_disk = False
        self.stopping = False
        self.booted = 0.0
        self.boots = 0
        self.domids = 0
        self.netlink: "Process | None" = None
        self.left: "list[str]" = []
        self.jobs: "dict[str, float]" = {}  # libvirt's, by VM: since when
        self.hooked: "set[str]" = set()  # VMs whose hook runs

    def new_domid(self) -> int:
        self.domids += 1
        return self.domids

    def find(self, name: str) -> "toolstack.Domain | None":
        for domain in self.domains.values():
            if domain.name == name or str(domain.domid) == name:
                return domain
        return None

    def __repr__(self) -> str:
        return self.name


class World:
    """Everything of one schedule; all chance comes from ``seed``."""

    def __init__(
        self, seed: int, vms: "dict[str, int]", keep_trace: bool = False, libvirt: bool = False
    ) -> None:
        self.random = randomlib.Random(seed)
        self.loop = Loop()
        self.keep_trace = keep_trace
        self.libvirt = libvirt
        self.lines: "list[str]" = []
        self.pids = 100
        self.fds = 2
        self.children: "dict[int, Process]" = {}
        self.link = Link(self, "replication")
        self.management = Link(self, "management")
        self.ssh = self.link if self.random.random() < 0.25 else self.management
        self.hosts = {name: Host(self, name, index) for index, name in enumerate(HOSTS)}
        self.promises = Promises(self)
        self.pairs: "dict[str, Pair]" = {}
        self.vm_of: "dict[str, str]" = {}
        self.guests: "dict[str, Guest]" = {}
        self.rate = 3.0
        self.auto = False
        self.loss = 0.004
        self.hang = 0.001
        self.skip_remove = 0.015
        self.flaky = 0.02
        self.kill_in: "int | None" = None
        self.kill_what = ""
        self.kill_at_add = False  # the next receiving xl, as it starts its block scripts
        self.lose_ssh_at_add = False  # the same, the source's ssh
        self.ssh_of: "dict[Any, Any]" = {}  # receiving xl -> its pipe
        self.kills = 0
        self.hangs = 0  # programs that gave no answer within their bound
        self.unheard: "set[str]" = set()
        self.ports = 0
        self.scripts: "list[float]" = []
        self._configs: "dict[str, Any]" = {}
        store.Client.world = self
        here.W = self
        for vm, disks in vms.items():
            self._provision(vm, disks)

    # -- set-up ----------------------------------------------------------------------

    def _provision(self, vm: str, disks: int) -> None:
        """What replicate leaves: volumes in sync, records and files on both hosts."""
        hosts = list(self.hosts.values())
        resources = []
        for number in range(disks):
            name = f"{vm}-xvd{'abc'[number]}"
            resources.append(name)
            minor, port = 1000 + len(self.pairs), 7800 + len(self.pairs)
            pair = self.pairs[name] = Pair(self, name, minor, port, hosts, BLOCKS)
            self.vm_of[name] = vm
            for host in hosts:
                peer = hosts[1 - host.index]
                record = {
                    "resource": name, "vm": vm, "vdev": name[-4:], "minor": str(minor), "port": str(port),
                    "volume": f"/dev/vg0/{name}", "meta": f"/dev/vg0/{name}_xhmeta", "host": host.name,
                    "peer": peer.name, "address": f"ipv4:10.99.0.{host.index + 1}:{port}",
                    "peer_address": f"ipv4:10.99.0.{peer.index + 1}:{port}",
                    "peer_volume": f"/dev/vg0/{name}", "size_bytes": "67108864", "protocol": "A",
                    "created": "2026-01-01T00:00:00Z",
                }  # fmt: skip
                text = "".join(f"{key}={value}\n" for key, value in record.items())
                host.files.put(f"{paths.RESOURCES}/{name}", text.encode())
                end = pair.ends[host.index]
                end.up = True
                end.attach()
                end.connect("A", False)
        for host in hosts:
            peer = hosts[1 - host.index]
            config = f"libvirt:{vm}" if self.libvirt else f"/etc/xen/{vm}.cfg"
            text = (
                f"vm={vm}\nconfig={config}\nsha256=0\noriginal=\npeer={peer.name}\n"
                f"resources={','.join(resources)}\nlast_ran=alice\n"
            )
            host.files.put(f"{paths.VMS}/{vm}", text.encode())
            host.files.put(f"{paths.DRBD_D}/{vm}.res", b"resource\n")
        self.guests[vm] = Guest(self, vm, resources)

    def config(self, host: Host) -> Any:
        """What config.load() returns there."""
        if host.name not in self._configs:
            from xenhelper.config import Config, Peer

            other = HOSTS[1 - host.index]
            peer = Peer(
                other, other, f"10.99.0.{2 - host.index}", f"10.99.0.{host.index + 1}", {"vg0": "vg0"}
            )
            self._configs[host.name] = Config(
                host.name, host.name, f"10.99.0.{host.index + 1}", {other: peer}, ("vg0",), (), (), (),
                (7800, 7899), (1000, 1099), "A",
            )  # fmt: skip
        return self._configs[host.name]

    # -- small services --------------------------------------------------------------

    def next_pid(self) -> int:
        self.pids += 1
        return self.pids

    def next_fd(self, process: Process) -> int:
        self.fds += 1
        return self.fds

    def release_fd(self, process: Process, fd: int) -> None:
        file = process.fds.pop(fd)
        file.close()

    def new_uuid(self) -> str:
        value = self.random.getrandbits(48)
        return f"753dac86-3e3b-4a61-902e-{value:012x}"

    def latency(self) -> float:
        r = self.random.random()
        return 0.004 + r * 0.03 if r < 0.95 else r * 0.3

    def trace(self, host: Any, line: str) -> None:
        if self.keep_trace:
            self.lines.append(f"{self.loop.now:9.3f} {host.name if host else '-':5} {line}")

    def say(self, process: Process, text: str) -> None:
        self.trace(process.host, f"{process.name}[{process.pid}] says: {text.strip()}")

    def logged(self, process: Process, kind: str, message: str, priority: int) -> None:
        self.trace(process.host, f"{process.name}[{process.pid}] logs {kind}: {message}")

    def port(
        self, process: Process, name: str, seconds: float, pause: bool = True, after: bool = False
    ) -> None:
        """A port call: time passes, others run, and here is where a kill may strike."""
        if process.dead:
            raise Killed
        self.ports += 1
        if self.keep_trace and name != "sleep" and not name.startswith("xenstore"):
            self.trace(process.host, f"{process.name}[{process.pid}] {'<-' if after else '->'} {name}")
        if pause:
            process.block(seconds * (0.5 + self.random.random()))
        if self.kill_in is not None and process.product and self.kill_what in process.name:
            self.kill_in -= 1
            if self.kill_in <= 0:
                self.kill_in = None
                self.kills += 1
                self.trace(process.host, f"### kill -9 {process} at {name}{' (after)' if after else ''}")
                process.dead = True
                raise Killed

    # -- processes -------------------------------------------------------------------

    def watch(self, process: Process) -> None:
        """An exception that a product's process doesn't catch is a bug of its own."""

        def ended(process: Process) -> None:
            if process.error is not None:
                import traceback

                text = "".join(traceback.format_exception(process.error)[-3:])
                self.promises.broken("crash", f"{process}: {text}")

        process.on_end.append(ended)

    def product(self, host: Host, name: str, fn: "Callable[[], Any]", **env: str) -> Process:
        """A process that runs the product's code."""
        process = Process(self, host, name, fn, product=True)
        process.env = dict(env)
        self.watch(process)
        self.children[process.pid] = process
        return process

    def block_script(self, parent: Process, host: Host, command: str, base: str) -> Process:
        """The block script as libxl starts it."""
        from xenhelper import hotplug

        process = self.product(
            host, f"block {command}", lambda: hotplug.main(["block-xenhelper", command]), XENBUS_PATH=base
        )
        process.parent = parent
        started = self.loop.now
        process.on_end.append(lambda p: self.trace(host, f"block {command}[{p.pid}] ended with {p.status}"))
        process.on_end.append(lambda p: self.scripts.append(self.loop.now - started))
        return process.start(0.03)

    def fence_peer(self, end: End, done: "Callable[[int, int, int], None]") -> None:
        """The kernel calls the fence-peer handler; ``done(status, meetings, incarnation)``."""
        from xenhelper import fence

        meetings, incarnation = end.meetings, end.incarnation
        started = self.loop.now
        process = self.product(end.host, "fence-peer", fence.main, DRBD_RESOURCE=end.pair.name)
        process.env["DRBD_MINOR"] = str(end.pair.minor)

        def ended(process: Process) -> None:
            if self.loop.now - started > 20.0:
                self.promises.broken("bounded", f"fence-peer took {self.loop.now - started:.1f} s")
            self.trace(end.host, f"fence-peer of {end.pair.name} ended with {process.status}")
            if end.incarnation == incarnation:
                done(process.status if process.status is not None else 1, meetings, incarnation)

        process.on_end.append(ended)
        process.start(0.02)

    def start_xl(self, parent: Process, argv: "list[str]") -> Process:
        child = Process(self, parent.host, "xl " + " ".join(argv), lambda: self.exec_xl(child, argv))
        for fd, file in parent.fds.items():
            if file.inheritable:
                file.refs += 1
                child.fds[fd] = file
        self.children[child.pid] = child
        return child.start()

    def exec_xl(self, process: Process, argv: "list[str]") -> int:
        """The real xl with what was typed after (or with) ``xl``."""
        words = [word for word in argv if word not in ("xl",)]
        self.trace(process.host, f"xl {' '.join(words)}")
        if words[0] == "migrate":
            status = toolstack.migrate(process, words[1], words[2])
        elif words[0] == "create":
            status = toolstack.create(process, words[1])
        else:
            raise AssertionError(f"xl {words} isn't simulated")
        self.trace(process.host, f"xl {' '.join(words)} ended with {status}")
        return status

    def command(self, host: Host, name: str, fn: "Callable[[Process], Any]") -> Process:
        """A person's or the toolstack's own process."""
        process = Process(self, host, name, lambda: fn(process))
        self.watch(process)
        self.children[process.pid] = process
        return process.start()

    # -- power -----------------------------------------------------------------------

    def power_off(self, host: Host, clean: bool = False) -> None:
        if not host.power:
            return
        self.trace(host, "### power off")
        host.power = False
        host.serving = False
        for domain in host.domains.values():
            if domain.guest.domain is domain:
                domain.guest.stop()
                domain.guest.domain = None
            domain.state = "dying"
        host.domains.clear()
        host.jobs.clear()
        host.hooked.clear()
        for process in list(host.processes.values()):
            process.kill()
        host.store = store.Store()
        host.netlink = None
        for pair in self.pairs.values():
            pair.ends[host.index].power_cut()
        if clean:
            host.files.sync()
        host.files.power_cut(self.random)

    def power_on(self, host: Host) -> None:
        """Boot: resources up, then the peer channel, then one reconcile."""
        if host.power:
            return
        self.trace(host, "### power on")
        host.power = True
        host.stopping = False
        host.boots += 1
        host.booted = self.loop.now
        host.domids = 0

        from xenhelper import boot

        def up() -> int:
            try:
                return 1 if boot.resources_up() else 0
            except XenhelperError as error:  # as the command does; the reconciler goes on
                self.trace(host, f"resources-up: {error}")
                return 1

        process = self.product(host, "resources-up", up)
        process.on_end.append(lambda _: self._booted(host))
        process.start(1.0)

    def _booted(self, host: Host) -> None:
        if host.power:
            host.serving = True
            self.reconcile(host)
            if self.auto:
                for vm in self.guests:
                    self.xendomains(host, vm)

    def xendomains(self, host: Host, vm: str) -> None:
        """/etc/xen/auto at boot, through the shim's check."""
        from xenhelper import autostart

        def check() -> int:
            try:
                autostart.check(vm, f"libvirt:{vm}" if self.libvirt else f"/etc/xen/{vm}.cfg")
            except XenhelperError as error:
                self.trace(host, f"xendomains: {error}")
                return 3
            return 0

        def checked(process: Process) -> None:
            if process.status == -9 and f"{paths.RUN}/wanted/{vm}" not in host.files.live:
                self.unheard.add(vm)  # killed before it left a mark: to be run again by whoever did
            if process.status == 0 and host.power:
                self.command(host, "xl create", lambda process: toolstack.create(process, vm))

        process = self.product(host, "xendomains", check)
        process.on_end.append(checked)
        process.start(0.2 + self.random.random() * 2)

    def reconcile(self, host: Host) -> Process:
        """One run of the reconciler, as the timer starts it."""
        from xenhelper import reconcile

        def run() -> int:
            try:
                host.left = reconcile.reconcile()
            except XenhelperError as error:
                host.left = [str(error)]
            return 0

        return self.product(host, "reconcile", run).start(self.random.random())
