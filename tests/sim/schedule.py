"""Schedules: what people and fate do to two hosts, generated from a seed, run, checked.

A schedule is a list of steps (seconds to wait, what, argument). Its world's own chance
comes from the same seed, so a schedule with steps left out can be run again to find the
shortest that still fails.
"""

import random as randomlib
import sys
from typing import Any

from tests.sim.drbd import PRIMARY, UPTODATE
from tests.sim.kernel import Process
from tests.sim.promises import Broken
from tests.sim.toolstack import AWAY, INCOMING
from tests.sim.world import HOSTS, Host, World
from xenhelper import paths
from xenhelper.errors import XenhelperError

Step = tuple[float, str, Any]

FAULTS = (
    "cut",
    "cut-management",
    "cut-both",
    "slow",
    "slow-disk",
    "kill",
    "kill-xl",
    "kill-xl-at-add",
    "lose-ssh-at-add",
    "power-off",
    "takeover",
    "halt",
)


def generate(seed: int) -> "tuple[dict[str, int], list[Step]]":
    """(VMs with their number of disks, steps) for ``seed``."""
    r = randomlib.Random(seed * 2 + 1)
    vms = {"web1": 2 if r.random() < 0.3 else 1}
    steps: "list[Step]" = [(0.5 + r.random() * 3, "create", "alice" if r.random() < 0.9 else "bob")]
    kinds = (
        ["migrate"] * 10 + ["migrate-past"] * 3 + ["shutdown", "reboot", "create", "double-create"]
        + ["cold-move"] * 2 + ["cut"] * 4 + ["heal"] * 2 + ["cut-management"] * 2 + ["heal-management"]
        + ["slow"] * 3 + ["fast"] + ["slow-disk", "cut-both"] + ["kill"] * 7
        + ["kill-xl"] * 2 + ["power-off"] * 2 + ["power-on"] * 2 + ["halt"]
        + ["reconcile"] + ["takeover"]
    )  # fmt: skip
    if seed % 8 == 1:
        # (which of them is told by the seed alone, so that those in KEPT stay what they are)
        dies = "lose-ssh-at-add" if seed % 32 in (1, 25) else "kill-xl-at-add"
        return {"web1": 2}, steps + _close_calls(r, dies)
    quiet = r.random() < 0.1
    if r.random() < 0.35:
        return vms, steps + _moves(r)
    for _ in range(r.randint(2, 9)):
        kind = r.choice(kinds)
        if quiet and kind in FAULTS:
            continue
        wait = r.random() ** 2 * r.choice((0.5, 4.0, 15.0))
        argument: Any = None
        if kind == "takeover":
            # the host dies, somebody takes over what ran there, and it comes back
            here, there = r.sample(HOSTS, 2)
            steps += [(wait, "power-off", there), (12 + r.random() * 10, "takeover", here)]
            steps.append((5 + r.random() * 40, r.choice(("power-on", "reboot", "shutdown")), there))
            continue
        if kind in ("create", "power-off", "power-on", "halt", "reconcile", "takeover"):
            argument = r.choice(HOSTS)
        elif kind == "kill":
            what = r.choice(
                ("", "", "xl migrate", "block add", "block remove", "serve", "reconcile", "fence")
            )
            argument = (int(r.random() ** 2 * 120) + 1, what)
        elif kind in ("migrate", "migrate-past"):
            # usually something happens while it runs
            steps.append((wait, kind, None))
            if r.random() < 0.6 and not quiet:
                fault = r.choice(
                    (
                        "cut",
                        "cut",
                        "cut-management",
                        "cut-both",
                        "kill",
                        "kill",
                        "kill",
                        "power-off",
                        "kill-xl",
                        "slow",
                    )
                )
                fate: Any = None
                if fault == "power-off":
                    fate = r.choice(HOSTS)
                elif fault == "kill":
                    what = r.choice(("", "xl migrate", "block add", "block remove", "serve"))
                    fate = (int(r.random() ** 2 * 100) + 1, what)
                steps.append((r.random() * r.choice((1.0, 4.0, 10.0)), fault, fate))
                if r.random() < 0.5:
                    undo = {"cut": "heal", "cut-management": "heal-management"}.get(fault)
                    if undo:
                        steps.append((r.random() * 8, undo, None))
                    elif fault == "cut-both":
                        steps.append((r.random() * 25, "create", r.choice(HOSTS)))
            continue
        steps.append((wait, kind, argument))
    return vms, steps


def _moves(r: randomlib.Random) -> "list[Step]":
    """Migrations and cold moves under load, each with its own trouble."""
    steps: "list[Step]" = [(5.0, "heal", None)]
    if r.random() < 0.6:
        steps.append((0.0, "slow", None))
    if r.random() < 0.25:
        steps.append((0.0, "slow-disk", None))
    for _ in range(r.randint(1, 3)):
        kind = r.choice(("migrate", "migrate", "migrate", "migrate-past", "migrate-past", "cold-move"))
        steps.append((r.random() * 3, kind, None))
        if r.random() < 0.45:
            fault = r.choice(
                ("cut", "cut", "cut-both", "kill", "kill", "kill-xl", "power-off", "cut-management")
            )
            argument: Any = None
            if fault == "power-off":
                argument = r.choice(HOSTS)
            elif fault == "kill":
                argument = (int(r.random() * 60) + 1, r.choice(("", "xl migrate", "block", "serve")))
            steps.append((r.random() * 7, fault, argument))
            if fault == "cut-both":
                steps.append((4 + r.random() * 25, "create", r.choice(HOSTS)))
        steps.append(
            (6.0 + r.random() * 10, r.choice(("heal", "heal-management", "power-on")), r.choice(HOSTS))
        )
    return steps


def _close_calls(r: randomlib.Random, dies: str) -> "list[Step]":
    """What only a fault in the right second shows: a link that dies before what a host has
    sent while it stepped down has arrived; a receiving xl that dies as it starts the block
    scripts, or the ssh between both xl, so that the guest goes on while they still ask for
    its disks."""
    steps: "list[Step]" = [(3.0, "slow", None)]
    for _ in range(r.randint(1, 3)):
        if r.random() < 0.4:
            steps.append((r.random() * 3, "cold-move", None))
            steps.append((r.random() ** 2 * 1.5, "cut", None))
        else:
            steps.append((r.random() * 3, r.choice(("migrate", "migrate-past", "migrate-past")), None))
            steps.append((0.0, dies, None))
        steps.append((6.0 + r.random() * 10, "heal", r.choice(HOSTS)))
    return steps


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
            getattr(self, "_" + kind.replace("-", "_"))(argument)
        loop.run(loop.now + 20.0, stop)
        if not stop():
            self._settle(stop)
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

    def _where(self, vm: str) -> "Host | None":
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

    def _create(self, where: str) -> None:
        vm, host = self.vms[0], self.world.hosts[where]
        if not host.power or not host.serving:
            return
        if self._where(vm) is not None and not self.faulty:
            return
        from tests.sim import toolstack

        self.alone.discard(vm)

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
            status = toolstack.create(process, vm)
            return status

        def ended(process: Process) -> None:
            # somebody wanted it elsewhere, in vain: where it belongs isn't plain any more
            if process.status and self._where(vm) is None and self.world.auto:
                self.expected[vm] = None

        process = self.world.command(host, "xl create", go)
        process.on_end.append(ended)
        process.on_end.append(lambda p: self.world.trace(host, f"xl create ended with {p.status}"))
        if self._where(vm) is None:
            process.on_end.append(lambda p: self._done("xl create", p))

    def _double_create(self, _: Any) -> None:
        for name in HOSTS:
            self._create(name)

    def _migrate(self, _: Any, shim: bool = True) -> None:
        vm = self.vms[0]
        host = self._where(vm)
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

    def _migrate_past(self, _: Any) -> None:
        self._migrate(None, shim=False)

    def _stop(self, vm: str) -> "tuple[Host, Any] | None":
        host = self._where(vm)
        if host is None:
            return None
        self.expected[vm] = None
        return host, host.find(vm)

    def _shutdown(self, _: Any) -> None:
        from tests.sim import toolstack

        found = self._stop(self.vms[0])
        if found is not None:
            host, domain = found
            self.world.command(host, "xl shutdown", lambda process: toolstack.destroy(process, domain))

    def _reboot(self, _: Any) -> None:
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

    def _cold_move(self, _: Any) -> None:
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

    def _takeover(self, where: str) -> None:
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
            promises.accepted.update(names)
            promises.ever_accepted.update(names)
            return 0

        process = self.world.product(host, "takeover", go)
        process.on_end.append(lambda p: self._create(where) if host.power and p.status == 0 else None)
        process.start()

    def _halt(self, where: str) -> None:
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
        if self._where(vm) is not other and not self.world.auto:
            self.expected[vm] = None
        self.world.command(host, "xl shutdown", down).on_end.append(guests_down)

    def _reconcile(self, where: str) -> None:
        host = self.world.hosts[where]
        if host.power and host.serving:
            self.world.reconcile(host)

    # -- fate ------------------------------------------------------------------------

    def _cut(self, _: Any) -> None:
        self.world.link.cut()

    def _cut_both(self, _: Any) -> None:
        self.world.link.cut()
        self.world.management.cut()

    def _slow_disk(self, _: Any) -> None:
        self.world.random.choice(list(self.world.hosts.values())).slow_disk = True

    def _heal(self, _: Any) -> None:
        self.world.link.heal()

    def _cut_management(self, _: Any) -> None:
        self.world.management.cut()

    def _heal_management(self, _: Any) -> None:
        self.world.management.heal()

    def _slow(self, _: Any) -> None:
        self.world.link.slow = True
        self.world.link.thin = self.world.random.choice((0.08, 0.15, 0.4))

    def _fast(self, _: Any) -> None:
        self.world.link.slow = False

    def _kill(self, argument: "tuple[int, str]") -> None:
        self.world.kill_in, self.world.kill_what = argument

    def _kill_xl(self, _: Any) -> None:
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

    def _kill_xl_at_add(self, _: Any) -> None:
        self.world.kill_at_add = True

    def _lose_ssh_at_add(self, _: Any) -> None:
        self.world.lose_ssh_at_add = True

    def _power_off(self, where: str) -> None:
        host = self.world.hosts[where]
        other = self.world.hosts[HOSTS[1 - host.index]]
        for vm in self.vms:
            if self._where(vm) is not other and not self.world.auto:
                self.expected[vm] = None
            if self._where(vm) is other and self._steady(vm, other):
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

    def _power_on(self, where: str) -> None:
        self.alone.clear()
        self.world.power_on(self.world.hosts[where])

    # -- the end ---------------------------------------------------------------------

    def _settle(self, stop: Any) -> None:
        """Everything works again and nobody acts: within bounds all must be well."""
        world = self.world
        loop = world.loop
        world.trace(None, "=== settle")
        world.kill_in = None
        world.rate = 0.3
        world.loss = world.hang = 0.0
        world.link.slow = False
        world.link.heal()
        world.management.heal()
        # a shutdown that is under way ends first
        loop.run(
            loop.now + 60.0, lambda: stop() or not any(h.power and h.stopping for h in world.hosts.values())
        )
        for host in world.hosts.values():
            self._power_on(host.name)
            host.slow_disk = False
        loop.run(loop.now + 100.0, stop)
        if stop():
            return
        for host in world.hosts.values():
            for process in host.processes.values():
                if loop.now - process.started > 90.0:
                    world.promises.broken(
                        "bounded", f"{process} has run for {loop.now - process.started:.0f} s"
                    )
        for vm in self.vms:
            self._check_people_free(vm)
        if stop():
            return
        if any(self._person(vm) for vm in self.vms):
            loop.run(loop.now + 90.0, stop)
        if stop():
            return
        for vm in self.vms:
            self._start_somewhere(vm, stop)
        if stop():
            return
        loop.run(loop.now + 75.0, stop)
        for vm in self.vms:
            self._final(vm, stop)

    def _domains(self, vm: str) -> "list[Any]":
        names = (vm, vm + INCOMING, vm + AWAY)
        return [d for host in self.world.hosts.values() for d in host.domains.values() if d.name in names]

    def _left(self, vm: str) -> "list[str]":
        return [line for host in self.world.hosts.values() for line in host.left if vm in line]

    def _split(self, vm: str) -> bool:
        """DRBD can't tell which side to keep: a case for `recover`. Where the product said so
        first and doesn't let them meet, DRBD's own rules are asked whether that is so."""
        for name in self.world.guests[vm].resources:
            pair = self.world.pairs[name]
            said = any(line.startswith(f"{name}: split brain") for line in self._left(vm))
            if said and name not in self.world.promises.split and pair.would_split():
                self.world.promises.split_brain(pair)
        # one that DRBD would end by itself by now, its roles being others, is nobody's case
        return any(
            name in self.world.promises.split and self.world.pairs[name].would_split()
            for name in self.world.guests[vm].resources
        )

    def _check_people_free(self, vm: str) -> None:
        """Before a person does anything: closed, or an alert says why not."""
        if self._left(vm) or self._split(vm):
            return
        domains = self._domains(vm)
        odd = [d for d in domains if d.name != vm or d.state != "running"]
        paused = [d for d in odd if d.name == vm and d.state == "paused"]
        if odd and odd != paused:
            self.world.promises.broken("alert", f"{odd} are left and nobody says so")
        self._closed(vm)
        expected = None if vm in self.world.unheard else self.expected[vm]
        if expected is not None and not [d for d in domains if d.state == "running"] and not paused:
            self.world.promises.broken(
                "available", f"{vm} ran on {expected} and runs nowhere now, with no alert"
            )

    def _closed(self, vm: str) -> None:
        for name in self.world.guests[vm].resources:
            for end in self.world.pairs[name].ends:
                if not end.connected:
                    self.world.promises.broken("window closes", f"{name} on {end.host} is {end.conn}")
                elif (end.protocol, end.two) != ("A", False):
                    self.world.promises.broken(
                        "window closes",
                        f"{name} on {end.host}: protocol {end.protocol}, two-primaries {end.two}",
                    )
                elif end.disk != UPTODATE:
                    self.world.promises.broken(
                        "window closes", f"{name} on {end.host} isn't UpToDate ({end.disk})"
                    )
        for host in self.world.hosts.values():
            for path in host.files.live:
                if path.startswith(paths.INTENTS + "/") and path.endswith("-" + vm):
                    self.world.promises.broken("window closes", f"{path} is left on {host}")

    def _person(self, vm: str) -> bool:
        """Somebody follows the alert: destroys what is left over. Whether there was anything."""
        from tests.sim import toolstack

        domains = self._domains(vm)
        odd = [d for d in domains if d.name != vm or d.state != "running"]
        for domain in odd:
            self.world.trace(domain.host, f"=== a person destroys {domain}")
            self.world.command(
                domain.host, "xl destroy", lambda process, d=domain: toolstack.destroy(process, d)
            )
            if domain.name == vm or not any(d.state == "running" for d in domains):
                self.expected[vm] = None
        return bool(odd or self._left(vm))

    def _start_somewhere(self, vm: str, stop: Any) -> None:
        if self._split(vm) or any(d.state == "running" for d in self._domains(vm)):
            return
        world = self.world
        for name in HOSTS:
            self.faulty = True
            self._create(name)
            world.loop.run(world.loop.now + 50.0, stop)
            if stop() or self._where(vm) is not None:
                return
        world.promises.broken("available", f"{vm} can't be started on either host, all being well")

    def _final(self, vm: str, stop: Any) -> None:
        if stop() or self._split(vm):
            return
        self._closed(vm)
        domains = self._domains(vm)
        if [d.state for d in domains] != ["running"]:
            self.world.promises.broken("available", f"at the end there are {domains}")
        if self._left(vm):
            self.world.promises.broken("alert", f"at the end, all being well: {self._left(vm)}")
        if stop():
            return
        guest = self.world.guests[vm]
        guest.stop()
        self.world.rate = 1e-9
        self.world.loop.run(self.world.loop.now + 5.0, stop)
        for name in guest.resources:
            one, two = self.world.pairs[name].ends
            if one.data != two.data:
                self.world.promises.broken("no divergence", f"{name}: {one.data} on alice, {two.data} on bob")
            for block in range(self.world.pairs[name].blocks):
                if one.data[block] < guest.known.get((name, block), 0):
                    self.world.promises.broken(
                        "no stale start", f"{name}: block {block} lost a write at the end"
                    )


# what can't happen to VMs of libvirt, or is the same as something else there
NOT_LIBVIRT = ("kill-xl", "kill-xl-at-add", "lose-ssh-at-add", "migrate-past")


def run_seed(seed: int, trace: bool = False, libvirt: bool = False) -> Run:
    """Generate and run the schedule of ``seed``; see Run.failed."""
    vms, steps = generate(seed)
    if libvirt:
        steps = [step for step in steps if step[1] not in NOT_LIBVIRT]
    run = Run(seed, vms, steps, trace, libvirt)
    run.run()
    return run


def shrink(seed: int, promise: str, libvirt: bool = False) -> "list[Step]":
    """The steps that are needed for ``seed`` to break that promise still."""
    vms, steps = generate(seed)
    if libvirt:
        steps = [step for step in steps if step[1] not in NOT_LIBVIRT]
    at = len(steps) - 1
    while at >= 0:
        fewer = steps[:at] + steps[at + 1 :]
        run = Run(seed, vms, fewer, libvirt=libvirt)
        run.run()
        if run.failed is not None and run.failed.promise == promise:
            steps = fewer
        at -= 1
    return steps
