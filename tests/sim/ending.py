"""The end of a schedule: everything works again and nobody acts, and within bounds all must be
well; then a person follows the alerts, and everything runs."""

from typing import TYPE_CHECKING, Any

from tests.sim.end import UPTODATE
from tests.sim.toolstack import AWAY, INCOMING
from tests.sim.world import HOSTS
from xenhelper import paths

if TYPE_CHECKING:
    from tests.sim.playing import Run


def settle(run: "Run", stop: Any) -> None:
    """Everything works again and nobody acts: within bounds all must be well."""
    world = run.world
    loop = world.loop
    world.trace(None, "=== settle")
    world.kill_in = None
    world.rate = 0.3
    world.loss = world.hang = 0.0
    world.link.slow = False
    world.link.heal()
    world.management.heal()
    # a shutdown that is under way ends first
    loop.run(loop.now + 60.0, lambda: stop() or not any(h.power and h.stopping for h in world.hosts.values()))
    for host in world.hosts.values():
        run.power_on(host.name)
        host.slow_disk = False
    loop.run(loop.now + 100.0, stop)
    if stop():
        return
    for host in world.hosts.values():
        for process in host.processes.values():
            if loop.now - process.started > 90.0:
                world.promises.broken("bounded", f"{process} has run for {loop.now - process.started:.0f} s")
    for vm in run.vms:
        _check_people_free(run, vm)
    if stop():
        return
    if any(_person(run, vm) for vm in run.vms):
        loop.run(loop.now + 90.0, stop)
    if stop():
        return
    for vm in run.vms:
        _start_somewhere(run, vm, stop)
    if stop():
        return
    loop.run(loop.now + 75.0, stop)
    for vm in run.vms:
        _final(run, vm, stop)


def _domains(run: "Run", vm: str) -> "list[Any]":
    names = (vm, vm + INCOMING, vm + AWAY)
    return [d for host in run.world.hosts.values() for d in host.domains.values() if d.name in names]


def _left(run: "Run", vm: str) -> "list[str]":
    return [line for host in run.world.hosts.values() for line in host.left if vm in line]


def _split(run: "Run", vm: str) -> bool:
    """DRBD can't tell which side to keep: a case for `recover`. Where the product said so
    first and doesn't let them meet, DRBD's own rules are asked whether that is so."""
    for name in run.world.guests[vm].resources:
        pair = run.world.pairs[name]
        said = any(line.startswith(f"{name}: split brain") for line in _left(run, vm))
        if said and name not in run.world.promises.split and pair.would_split():
            run.world.promises.split_brain(pair)
    # one that DRBD would end by itself by now, its roles being others, is nobody's case
    return any(
        name in run.world.promises.split and run.world.pairs[name].would_split()
        for name in run.world.guests[vm].resources
    )


def _check_people_free(run: "Run", vm: str) -> None:
    """Before a person does anything: closed, or an alert says why not."""
    if _left(run, vm) or _split(run, vm):
        return
    domains = _domains(run, vm)
    odd = [d for d in domains if d.name != vm or d.state != "running"]
    paused = [d for d in odd if d.name == vm and d.state == "paused"]
    if odd and odd != paused:
        run.world.promises.broken("alert", f"{odd} are left and nobody says so")
    _closed(run, vm)
    expected = None if vm in run.world.unheard else run.expected[vm]
    if expected is not None and not [d for d in domains if d.state == "running"] and not paused:
        run.world.promises.broken("available", f"{vm} ran on {expected} and runs nowhere now, with no alert")


def _closed(run: "Run", vm: str) -> None:
    for name in run.world.guests[vm].resources:
        for end in run.world.pairs[name].ends:
            if not end.connected:
                run.world.promises.broken("window closes", f"{name} on {end.host} is {end.conn}")
            elif (end.protocol, end.two) != ("A", False):
                run.world.promises.broken(
                    "window closes",
                    f"{name} on {end.host}: protocol {end.protocol}, two-primaries {end.two}",
                )
            elif end.disk != UPTODATE:
                run.world.promises.broken(
                    "window closes", f"{name} on {end.host} isn't UpToDate ({end.disk})"
                )
    for host in run.world.hosts.values():
        for path in host.files.live:
            if path.startswith(paths.INTENTS + "/") and path.endswith("-" + vm):
                run.world.promises.broken("window closes", f"{path} is left on {host}")


def _person(run: "Run", vm: str) -> bool:
    """Somebody follows the alert: destroys what is left over. Whether there was anything."""
    from tests.sim import toolstack

    domains = _domains(run, vm)
    odd = [d for d in domains if d.name != vm or d.state != "running"]
    for domain in odd:
        run.world.trace(domain.host, f"=== a person destroys {domain}")
        run.world.command(domain.host, "xl destroy", lambda process, d=domain: toolstack.destroy(process, d))
        if domain.name == vm or not any(d.state == "running" for d in domains):
            run.expected[vm] = None
    return bool(odd or _left(run, vm))


def _start_somewhere(run: "Run", vm: str, stop: Any) -> None:
    if _split(run, vm) or any(d.state == "running" for d in _domains(run, vm)):
        return
    world = run.world
    for name in HOSTS:
        run.faulty = True
        run.create(name)
        world.loop.run(world.loop.now + 50.0, stop)
        if stop() or run.where(vm) is not None:
            return
    world.promises.broken("available", f"{vm} can't be started on either host, all being well")


def _final(run: "Run", vm: str, stop: Any) -> None:
    if stop() or _split(run, vm):
        return
    _closed(run, vm)
    domains = _domains(run, vm)
    if [d.state for d in domains] != ["running"]:
        run.world.promises.broken("available", f"at the end there are {domains}")
    if _left(run, vm):
        run.world.promises.broken("alert", f"at the end, all being well: {_left(run, vm)}")
    if stop():
        return
    guest = run.world.guests[vm]
    guest.stop()
    run.world.rate = 1e-9
    run.world.loop.run(run.world.loop.now + 5.0, stop)
    for name in guest.resources:
        one, two = run.world.pairs[name].ends
        if one.data != two.data:
            run.world.promises.broken("no divergence", f"{name}: {one.data} on alice, {two.data} on bob")
        for block in range(run.world.pairs[name].blocks):
            if one.data[block] < guest.known.get((name, block), 0):
                run.world.promises.broken("no stale start", f"{name}: block {block} lost a write at the end")
