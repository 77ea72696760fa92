"""The contract's JSON (design: ``xenhelper status --json``) from what was read. Pure."""

from collections.abc import Collection
from typing import Any

from xenhelper import names, steady, virt
from xenhelper.drbd import events, show
from xenhelper.status import more
from xenhelper.status.read import Domain, World

Problem = dict[str, str | None]
SYNCING = ("SyncSource", "SyncTarget", "PausedSyncS", "PausedSyncT")
WARNING, ERROR, CRITICAL = "warning", "error", "critical"


def status(world: World, only: list[str] | None = None) -> dict[str, Any]:
    """The whole answer; ``only`` these VMs when given."""
    vms: dict[str, list[dict[str, str]]] = {}
    for record in world.records.values():
        if record.get("vm"):
            vms.setdefault(record["vm"], []).append(record)
    chosen = [vm for vm in sorted(vms) if not only or vm in only]
    problems: list[Problem] = []
    places = _places(world)
    shown = [
        _vm(world, vm, sorted(vms[vm], key=lambda r: r.get("vdev", "")), places, problems) for vm in chosen
    ]
    problems += [_problem(severity, None, what, do) for severity, what, do in world.notes]
    for finding in world.writers_beneath:
        if finding.vm in chosen:
            do = finding.do(world.kernel.get(finding.resource))
            problems.append(_problem(CRITICAL, finding.vm, finding.what(), do))
    problems += _split_problems(world, chosen)
    for vm in world.wanted:
        if vm in chosen:
            problems.append(
                _problem(
                    WARNING,
                    vm,
                    f"{vm} waits to be started until its other host answers",
                    "nothing: that goes by itself; if that host is dead: "
                    f"`xenhelper takeover {vm}`, then `xl create`",
                )
            )
    for peer, answer in sorted(world.peers.items()):
        if answer is None:
            problems.append(
                _problem(
                    WARNING,
                    None,
                    f"{peer} didn't answer over the management path: what runs there isn't known",
                    f"check {peer}, then `systemctl status xenhelper-peer@{peer}`",
                )
            )
    listed = [
        _intent(world, intent, problems) for intent in world.intents if not only or intent.get("vm") in only
    ]
    known = {(intent.get("kind"), intent.get("vm")) for intent in world.intents}
    for intent in world.theirs:
        if intent.get("vm") in chosen and (intent.get("kind"), intent.get("vm")) not in known:
            listed.append({**_public(intent), "host": str(intent["host"]), "working": None})
    return {"host": world.host, "vms": shown, "intents": listed, "problems": problems}


def _split_problems(world: World, chosen: list[str]) -> list[Problem]:
    """One for each split brain, with both sides' story."""
    if not world.splits:
        return []
    from xenhelper import splitbrain

    found = []
    for name, (mine, theirs) in sorted(world.splits.items()):
        vm = world.records[name].get("vm", "")
        if vm not in chosen:
            continue
        peer = world.records[name].get("peer", "?")
        other = splitbrain.tell(theirs) if theirs is not None else f"{peer}: doesn't answer"
        since = mine.get("since") or (theirs or {}).get("since") or "an unknown time"
        together = mine.get("in_sync_at") or "an unknown time"
        found.append(
            _problem(
                CRITICAL,
                vm,
                f"split brain of {name}, found {since}, last in sync {together}: both hosts wrote to their "
                f"own copy. {splitbrain.tell(mine)}. {other}",
                f"decide whose writes go: `xenhelper recover {vm} --discard {world.host}` or "
                f"`xenhelper recover {vm} --discard {peer}`",
            )
        )
    return found


def _problem(severity: str, vm: str | None, what: str, do: str) -> Problem:
    return {"severity": severity, "vm": vm, "what": what, "do": do}


def _window(world: World, vm: str) -> dict[str, str] | None:
    return next((i for i in world.intents if i.get("kind") == "window" and i.get("vm") == vm), None)


def _vm(
    world: World,
    vm: str,
    records: list[dict[str, str]],
    places: dict[str, dict[str, Domain]],
    problems: list[Problem],
) -> dict[str, Any]:
    window = _window(world, vm)
    where = _where(places, vm)
    if len(where) > 1 and window is None:
        problems.append(
            _problem(
                CRITICAL,
                vm,
                f"{vm} is on {' and '.join(sorted(where))} at once",
                "`xl list` on both tells which",
            )
        )
    running = next((host for host in where if where[host].name == vm), next(iter(where), None))
    if not where and window is None:
        problems += _renamed(world, vm, records)
    return {
        "name": vm,
        "uuid": where[running].uuid if running else None,
        "runs_on": running,
        "migrating_to": window.get("destination") if window else None,
        "disks": [_disk(world, vm, record, window is not None, problems) for record in records],
    }


def _renamed(world: World, vm: str, records: list[dict[str, str]]) -> list[Problem]:
    """Disks that are in use on a host where no domain has this VM's name."""
    found = []
    advice = f"was the domain renamed? `xl rename NAME {vm}` on {{host}} gives it its name back"
    if virt.is_ours(world.vms.get(vm)):  # promoted before the domain is there, demoted after it is gone
        advice = "libvirt starts or stops it, or lost it: `virsh -c xen:///system list --all` on {host} tells"
    for record in records:
        name, peer, vdev = (record.get(key, "") for key in ("resource", "peer", "vdev"))
        state = world.kernel.get(name)
        users = []
        if state and state.role == events.PRIMARY and world.domains is not None:
            users.append(world.host)
        if state and state.peer_role == events.PRIMARY and world.peers.get(peer) is not None:
            users.append(peer)
        for host in users:
            holder = world.holders.get(name) if host == world.host else None
            what = f"{vm} {vdev}: {name} is in use on {host}" + (f" by {holder}" if holder else "")
            do = "let it go there; the reconciler then demotes it" if holder else advice.format(host=host)
            found.append(_problem(WARNING, vm, f"{what}, and no domain there is called {vm}", do))
    return found


def _places(world: World) -> dict[str, dict[str, Domain]]:
    """By name, host -> the domain of that name there."""
    found: dict[str, dict[str, Domain]] = {}
    for host, domains in ((world.host, world.domains), *world.peers.items()):
        for domain in domains or []:
            found.setdefault(domain.name, {}).setdefault(host, domain)
    return found


def _where(places: dict[str, dict[str, Domain]], vm: str) -> dict[str, Domain]:
    """Host -> the domain of this VM there; its final name before the two of a migration."""
    found: dict[str, Domain] = {}
    for name in (vm, vm + names.MIGRATED_AWAY, vm + names.INCOMING):
        for host, domain in places.get(name, {}).items():
            found.setdefault(host, domain)
    return found


def _disk(
    world: World, vm: str, record: dict[str, str], migrating: bool, problems: list[Problem]
) -> dict[str, Any]:
    name = record.get("resource", "")
    state, settings = world.kernel.get(name), world.settings.get(name)
    disk: dict[str, Any] = {
        "vdev": record.get("vdev", ""),
        "resource": name,
        "minor": _number(record.get("minor")),
        "port": _number(record.get("port")),
        "volume": record.get("volume", ""),
        "size_bytes": _number(record.get("size_bytes")),
        "peer": record.get("peer", ""),
        "connection": state.connection if state else "Unconfigured",
        "role": state.role if state else "Unknown",
        "peer_role": state.peer_role if state else "Unknown",
        "disk_state": state.disk if state else "Unconfigured",
        "peer_disk_state": state.peer_disk if state else "DUnknown",
        "protocol": _protocol(state, settings) or record.get("protocol") or world.protocol,
        "two_primaries": settings.two_primaries if settings else False,
        "sync_percent": sync_percent(state) if state else None,  # and what more.py adds to it
        "out_of_sync_bytes": state.out_of_sync if state else None,
    }
    gone = world.gone.get(name)
    if gone:
        what = f"{vm} {disk['vdev']}: there is no {gone} any more: {name} won't come up after the next boot"
        do = f"was it renamed? `lvs -o lv_full_name,lv_tags | grep {name}` shows it; `lvrename` it back"
        problems.append(_problem(ERROR, vm, what, do))
    disk |= more.about(world, disk, state)
    if state and state.replication in SYNCING and disk["activity_percent"] is not None:
        # one number in one answer: the kernel's of the moment that rate and time left are of
        disk["sync_percent"] = min(99.99, disk["activity_percent"])
    problems += _disk_problems(
        vm, disk, state, record.get("protocol") or world.protocol, migrating, world.splits
    )
    return disk


def _protocol(state: events.Resource | None, settings: show.Settings | None) -> str:
    """The connection's; '' without one's settings (StandAlone): the next one takes the file's."""
    if settings and settings.remote:
        return settings.protocol
    return state.protocol if state else ""


def sync_percent(state: events.Resource) -> float:
    """How much of the volume is the same on both, as far as this side knows; it says 100
    only when nothing is left."""
    if state.done_percent is not None and state.replication in SYNCING:
        return state.done_percent
    if state.out_of_sync == 0:
        return 100.0
    same = 100.0 * (1 - state.out_of_sync / state.size) if state.size else 0.0
    return round(max(0.0, min(99.99, same)), 2)


def _disk_problems(
    vm: str,
    disk: dict[str, Any],
    state: events.Resource | None,
    wanted: str,
    migrating: bool,
    world_splits: Collection[str] = (),
) -> list[Problem]:
    name, peer = disk["resource"], disk["peer"]
    found: list[Problem] = []

    def add(severity: str, what: str, do: str) -> None:
        found.append(_problem(severity, vm, f"{vm} {disk['vdev']}: {what}", do))

    if state is None:
        add(
            ERROR,
            f"resource {name} isn't up on this host",
            "`xenhelper resources-up`; it says why if it can't",
        )
        return found
    if name in world_splits:
        pass  # told with both sides' story
    elif state.connection == "StandAlone":
        add(
            ERROR,
            f"no replication: {name} is StandAlone",
            "`xenhelper reconcile` connects it, or tells that it is a split brain",
        )
    elif not state.connected:
        add(
            WARNING, f"no replication: {peer} is {state.connection}", f"check {peer} and the replication link"
        )
    syncing = state.replication in SYNCING
    if state.disk != events.UP_TO_DATE and not syncing:
        add(
            ERROR, f"the volume here is {state.disk}", f"start it on {peer}; `xenhelper reconcile` reconnects"
        )
    if state.connected and state.peer_disk != events.UP_TO_DATE and not syncing:
        add(ERROR, f"the volume on {peer} is {state.peer_disk}", f"`xenhelper status` on {peer} says more")
    if syncing:
        source = "from here" if state.replication in ("SyncSource", "PausedSyncS") else f"from {peer}"
        add(WARNING, f"syncs {source}, {disk['sync_percent']:.1f} % done", "nothing: it goes on by itself")
    if not syncing and state.in_sync and disk["out_of_sync_bytes"]:
        add(WARNING, *more.differing(vm, disk))
    if migrating:
        return found
    if state.role == events.PRIMARY and state.peer_role == events.PRIMARY:
        add(CRITICAL, "both hosts are Primary and no migration is under way", "`xenhelper reconcile` on both")
    if disk["two_primaries"]:
        add(ERROR, "two Primaries are allowed and no migration is under way", "`xenhelper reconcile`")
    wanted = steady.protocol({"protocol": wanted}, state)
    if state.connection != "StandAlone" and disk["protocol"] != wanted:
        add(WARNING, f"protocol {disk['protocol']} instead of {wanted}", "`xenhelper reconcile`")
    return found


def _intent(world: World, intent: dict[str, str], problems: list[Problem]) -> dict[str, Any]:
    vm, kind = intent.get("vm", ""), intent.get("kind", "")
    working = vm in world.working
    resource = intent.get("resource", "")
    state = world.kernel.get(resource) if kind == "grow" else None
    if state is not None and state.connected and state.replication != "Established":
        problems.append(
            _problem(
                WARNING,
                vm,
                f"{vm}: {resource} becomes larger once its resync is through",
                "nothing: that goes by itself",
            )
        )
    elif not working:
        problems.append(
            _problem(
                WARNING,
                vm,
                f"{vm}: a change ({kind}) begun {intent.get('since', 'some time ago')} was interrupted",
                f"`{intent.get('again', 'xenhelper import')}` goes on with it; "
                f"`xenhelper import --undo {vm}` gives it up"
                if kind == "import"
                else "`xenhelper reconcile` finishes or undoes it; the timer does so too",
            )
        )
    return {**_public(intent), "working": working}


def _public(intent: dict[str, Any]) -> dict[str, Any]:
    public = ("kind", "vm", "since", "source", "destination", "role", "state", "peer")
    return {key: str(intent[key]) for key in public if key in intent}


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def exit_code(answer: dict[str, Any]) -> int:
    """For ``--check``: 5 when something is broken, 4 when something is degraded, else 0."""
    severities = {problem["severity"] for problem in answer["problems"]}
    if severities & {ERROR, CRITICAL}:
        return 5
    return 4 if WARNING in severities else 0
