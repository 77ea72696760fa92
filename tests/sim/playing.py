"""One schedule played in its world: what each of its steps does there."""

import sys
from collections.abc import Iterable
from typing import Any

from tests.sim import ending
from tests.sim.end import PRIMARY, UPTODATE
from tests.sim.generate import FAULTS, Step
from tests.sim.kernel import Killed, Process
from tests.sim.promises import Broken
from tests.sim.world import HOSTS, Host, World
from xenhelper import paths
from xenhelper.errors import XenhelperError


class Run:
    """One schedule in its world."""

    def __init__(
        self,
        seed: int,
        vms: "dict[str, int]",
        steps: "list[Step]",
        trace: bool = False,
        libvirt: bool = False,
    ) -> None:
        self.world = World(seed, vms, trace, libvirt)
        self.steps = steps
        self.vms = list(vms)
        self.world.auto = "xenhelper.autostart" in sys.modules and self.world.random.random() < 0.5
        self.faulty = any(step[1] in (*FAULTS, "double-create", "migrate-past") for step in steps)
        self.expected: "dict[str, str | None]" = dict.fromkeys(vms)
        self.alone: "set[str]" = set()
        self.world.promises.on_start = self._started
        if not self.faulty:
            self.world.loss = self.world.hang = self.world.skip_remove = self.world.flaky = 0.0

    # -- running ---------------------------------------------------------------------

    @property
    def failed(self) -> "Broken | None":
        found = self.world.promises.found
        return found[0] if found else None

    def run(self) -> "Broken | None":
        """Run it all; what promise broke first, or None."""
        world = self.world
        loop = world.loop
        stop = lambda: bool(world.promises.found)  # noqa: E731
        self._tick()
        loop.run(6.0, stop)
        for wait, kind, argument in self.steps:
            loop.run(loop.now + wait, stop)
            if not self.faulty:
                # where nothing goes wrong, people wait for one command before the next
                loop.run(loop.now + 200.0, lambda: stop() or not self._busy())
                loop.run(loop.now + 1.0, stop)
            if stop():
                return self.failed
            world.trace(None, f"=== {kind} {argument if argument is not None else ''}")
            getattr(self, kind.replace("-", "_"))(argument)
        loop.run(loop.now + 20.0, stop)
        if not stop():
            ending.settle(self, stop)
        return self.failed

    def _tick(self) -> None:
        """The reconcile timer of both hosts."""
        for host in self.world.hosts.values():
            if (
                host.power
                and host.serving
                and not any(p.name == "reconcile" for p in host.processes.values())
            ):
                self.world.reconcile(host)
        self.world.loop.at(30.0 + self.world.random.random() * 10, self._tick)

    def _started(self, domain: Any) -> None:
        self.world.unheard.discard(domain.guest.vm)
        self.expected[domain.guest.vm] = domain.host.name

    def _busy(self) -> bool:
        """Whether a command goes on somewhere."""
        return any(
            process.name.startswith(("xl", "block", "virsh", "libxl"))
            for host in self.world.hosts.values()
            for process in host.processes.values()
        )

    # -- what people do --------------------------------------------------------------

    def where(self, vm: str) -> "Host | None":
        for host in self.world.hosts.values():
            found = host.find(vm)
            if found is not None and found.state == "running":
                return host
        return None

    def _done(self, what: str, process: Process) -> None:
        if not self.faulty and process.status not in (0, None):
            self.world.promises.broken(
                "needless refusal", f"{what} ended with {process.status}, nothing was wrong"
            )

    def create(self, where: str) -> None:
        vm, host = self.vms[0], self.world.hosts[where]
        if not host.power or not host.serving:
            return
        if self.where(vm) is not None and not self.faulty:
            return
        from tests.sim import toolstack

        self.alone.discard(vm)
        destroyed = []

        def go(process: Process) -> int:
            found = host.find(vm)
            if found is not None and found.state == "paused":
                if any(
                    p.name in ("xl create", "xl reboot", "xl cold-move")
                    for p in host.processes.values()
                    if p is not process
                ):
                    return 1
                toolstack.destroy(process, found)
                destroyed.append(found)
            status = toolstack.create(process, vm)
            return status

        def ended(process: Process) -> None:
            # somebody wanted it elsewhere, in vain, or has destroyed a migration's half of it and
            # was told that it can't start: where it belongs isn't plain any more
            if process.status and self.where(vm) is None and (self.world.auto or destroyed):
                self.expected[vm] = None

        process = self.world.command(host, "xl create", go)
        process.on_end.append(ended)
        process.on_end.append(lambda p: self.world.trace(host, f"xl create ended with {p.status}"))
        if self.where(vm) is None:
            process.on_end.append(lambda p: self._done("xl create", p))

    def double_create(self, _: Any) -> None:
        for name in HOSTS:
            self.create(name)

    def migrate(self, _: Any, shim: bool = True) -> None:
        vm = self.vms[0]
        host = self.where(vm)
        if host is None:
            return
        to = HOSTS[1 - host.index]
        if self.world.libvirt:
            from tests.sim import libvirt

            command = self.world.command(host, "virsh", lambda process: libvirt.migrate(process, vm, to))
            command.on_end.append(lambda p: self.world.trace(host, f"virsh migrate ended with {p.status}"))
            command.on_end.append(lambda p: self._done("virsh migrate", p))
            return
        if not shim:
            self.world.command(
                host, "xl migrate", lambda process: self.world.exec_xl(process, ["migrate", vm, to])
            )
            return
        from xenhelper import xl

        process = self.world.product(host, "xl migrate", lambda: xl.main(["migrate", vm, to]))
        process.on_end.append(lambda p: self.world.trace(host, f"the shim ended with {p.status}"))
        process.on_end.append(lambda p: self._done("xl migrate", p))
        process.start(0.05)

    def migrate_past(self, _: Any) -> None:
        self.migrate(None, shim=False)

    def _stop(self, vm: str) -> "tuple[Host, Any] | None":
        host = self.where(vm)
        if host is None:
            return None
        self.expected[vm] = None
        return host, host.find(vm)

    def shutdown(self, _: Any) -> None:
        from tests.sim import toolstack

        found = self._stop(self.vms[0])
        if found is not None:
            host, domain = found
            self.world.command(host, "xl shutdown", lambda process: toolstack.destroy(process, domain))

    def reboot(self, _: Any) -> None:
        """The guest reboots: the same xl destroys it and creates it again."""
        from tests.sim import toolstack

        vm = self.vms[0]
        found = self._stop(vm)
        if found is None:
            return
        host, domain = found
        alone = vm in self.alone
        before = self.world.kills, self.world.hangs

        def go(process: Process) -> int:
            toolstack.destroy(process, domain)
            status = toolstack.create(process, vm)
            undisturbed = (self.world.kills, self.world.hangs) == before
            if status and alone and vm in self.alone and undisturbed:
                self.world.promises.broken(
                    "needless refusal", f"{vm} can't reboot on {host} after its peer died"
                )
            return status

        process = self.world.command(host, "xl reboot", go)
        process.on_end.append(lambda p: self._done("a reboot", p))

    def cold_move(self, _: Any) -> None:
        from tests.sim import toolstack

        vm = self.vms[0]
        found = self._stop(vm)
        if found is None:
            return
        host, domain = found
        other = self.world.hosts[HOSTS[1 - host.index]]

        def go(process: Process) -> int:
            toolstack.destroy(process, domain)
            return 0

        def then(process: Process) -> None:
            if not other.power:
                return

            def start(process: Process) -> int:
                return toolstack.create(process, vm)

            started = self.world.command(other, "xl cold-move", start)
            started.on_end.append(lambda p: self._done("a cold move", p))

        self.world.command(host, "xl shutdown", go).on_end.append(then)

    def takeover(self, where: str, starts: bool = True) -> None:
        """An operator's word that the peer is dead, while it is."""
        host = self.world.hosts[where]
        other = self.world.hosts[HOSTS[1 - host.index]]
        vm = self.vms[0]
        if other.power or not host.power or not host.serving or host.find(vm) is not None:
            return
        ends = [self.world.pairs[name].ends[host.index] for name in self.world.guests[vm].resources]
        if any(end.disk != UPTODATE or end.connected for end in ends):
            return
        promises = self.world.promises
        names = [end.pair.name for end in ends]

        def accepted(permitted: "Iterable[bool]") -> None:
            if all(permitted):
                promises.accepted.update(names)
                promises.ever_accepted.update(names)

        def go() -> int:
            try:
                from xenhelper import insync, takeover
            except ImportError:
                from xenhelper import permits

                for end in ends:
                    permits.grant_takeover(end.pair.name, end.pair.minor)
            else:
                accept = min(insync.last(name) or 0.0 for name in names)
                try:
                    takeover.run([vm], False, True, accept, False, lambda line: None)
                except XenhelperError as error:
                    self.world.trace(host, f"takeover: {error}")
                    return 3
                except Killed:
                    # the word was given; once the intent is gone nothing undoes what it permitted
                    if f"{paths.INTENTS}/takeover-{vm}" not in host.files.live:
                        accepted(f"{paths.PERMITS}/{name}" in host.files.live for name in names)
                    raise
            accepted([True])
            return 0

        process = self.world.product(host, "takeover", go)
        if starts:
            process.on_end.append(lambda p: self.create(where) if host.power and p.status == 0 else None)
        process.start()

    def permit(self, where: str) -> None:
        """A takeover, and nobody starts the VM."""
        self.takeover(where, starts=False)

    def halt(self, where: str) -> None:
        """A clean shutdown: guests down, units stopped, power off."""
        host = self.world.hosts[where]
        vm = self.vms[0]
        if not host.power or not host.serving or self._busy():
            return
        from tests.sim import toolstack

        domain = host.find(vm)

        def down(process: Process) -> int:
            if domain is not None:
                toolstack.destroy(process, domain)
            return 0

        def stop() -> int:
            from xenhelper import boot

            if hasattr(boot, "stop"):
                boot.stop()
            return 0

        def stopped(_: Process) -> None:
            if host.power and host.stopping:
                self.world.power_off(host, clean=True)

        def guests_down(_: Process) -> None:
            if host.power:
                process = self.world.product(host, "resources-down", stop)
                process.on_end.append(stopped)
                process.start()

        self.alone.clear()
        host.stopping = True
        other = self.world.hosts[HOSTS[1 - host.index]]
        if self.where(vm) is not other and not self.world.auto:
            self.expected[vm] = None
        self.world.command(host, "xl shutdown", down).on_end.append(guests_down)

    def reconcile(self, where: str) -> None:
        host = self.world.hosts[where]
        if host.power and host.serving:
            self.world.reconcile(host)

    # -- fate ------------------------------------------------------------------------

    def cut(self, _: Any) -> None:
        self.world.link.cut()

    def cut_both(self, _: Any) -> None:
        self.world.link.cut()
        self.world.management.cut()

    def slow_disk(self, _: Any) -> None:
        self.world.random.choice(list(self.world.hosts.values())).slow_disk = True

    def heal(self, _: Any) -> None:
        self.world.link.heal()

    def cut_management(self, _: Any) -> None:
        self.world.management.cut()

    def heal_management(self, _: Any) -> None:
        self.world.management.heal()

    def slow(self, _: Any) -> None:
        self.world.link.slow = True
        self.world.link.thin = self.world.random.choice((0.08, 0.15, 0.4))

    def fast(self, _: Any) -> None:
        self.world.link.slow = False

    def kill(self, argument: "tuple[int, str]") -> None:
        self.world.kill_in, self.world.kill_what = argument

    def kill_xl(self, _: Any) -> None:
        found = [
            process
            for host in self.world.hosts.values()
            for process in host.processes.values()
            if process.name.startswith(("xl create", "xl migrate"))
            and not process.product
            and not process.held
        ]
        if found:
            process = self.world.random.choice(found)
            self.world.trace(process.host, f"### kill -9 {process}")
            process.kill()

    def kill_xl_at_add(self, _: Any) -> None:
        self.world.kill_at_add = True

    def lose_ssh_at_add(self, _: Any) -> None:
        self.world.lose_ssh_at_add = True

    def power_off(self, where: str) -> None:
        host = self.world.hosts[where]
        other = self.world.hosts[HOSTS[1 - host.index]]
        for vm in self.vms:
            if self.where(vm) is not other and not self.world.auto:
                self.expected[vm] = None
            if self.where(vm) is other and self._steady(vm, other):
                self.alone.add(vm)
            else:
                self.alone.discard(vm)
        self.world.power_off(host)

    def _steady(self, vm: str, host: Host) -> bool:
        """Nothing is under way with ``vm``, and it has its disks."""
        if f"{paths.INTENTS}/window-{vm}" in host.files.live:
            return False
        if any(
            p.name.startswith(("xl", "virsh", "libxl"))
            for h in self.world.hosts.values()
            for p in h.processes.values()
        ):
            return False
        ends = [self.world.pairs[name].ends[host.index] for name in self.world.guests[vm].resources]
        return all(end.role == PRIMARY and end.disk == UPTODATE and not end.two for end in ends)

    def power_on(self, where: str) -> None:
        self.alone.clear()
        self.world.power_on(self.world.hosts[where])
