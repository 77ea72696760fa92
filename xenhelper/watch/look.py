"""One look at this host: reads only, and forks nothing."""

from xenhelper import beneath, differing, insync, intents, paths, statefile
from xenhelper.alerts import store
from xenhelper.drbd import proc
from xenhelper.drbd.proc import State
from xenhelper.errors import XenhelperError
from xenhelper.watch import judge
from xenhelper.watch.world import World
from xenhelper.xen.xenstore import Xenstore


def world(now: float) -> tuple[World, str]:
    """This host at ``now`` (seconds since 1970), and what couldn't be read, if anything.

    Raises XenhelperError or OSError when our own records can't be.
    """
    trouble = ""
    states, records = proc.read()[1], beneath.records()
    backends: tuple[beneath.Backend, ...] | None = None
    domains: tuple[str, ...] = ()
    try:
        backends, domains = _xenstore()
    except XenhelperError as error:
        trouble = str(error)
    found = World(
        now=now,
        states=states,
        records=records,
        backends=backends,
        domains=domains,
        beneath=tuple(beneath.find(backends or (), records)),
        intents=tuple(_aged(intent, now) for intent in intents.all_open()),
        splits=frozenset(statefile.names(f"{paths.STATE}/split_brain")) & records.keys(),
        taken_over=_taken_over(records),
        raised=frozenset(
            (record["kind"], record["key"])
            for record in store.active()
            if record["kind"] in (*judge.KINDS, "verify")
        ),
    )  # fmt: skip
    return _rest(found), trouble


def _rest(found: World) -> World:
    """What is read only of resources that aren't well: locks and times."""
    in_sync, locked, verified = {}, set(), {}
    for name, record in found.records.items():
        state = found.state(name)
        if not _well(state):
            last = insync.last(name)
            if last is not None:
                in_sync[name] = last
        elif state is not None and state.out_of_sync:
            verified[name] = differing.where(name, found.now)
            if intents.is_locked(record.get("vm", "")):
                locked.add(record.get("vm", ""))
    return World(**{**vars(found), "in_sync": in_sync, "locked": frozenset(locked), "verified": verified})


def _well(state: State | None) -> bool:
    return state is not None and state.talks and state.disk == state.peer_disk == "UpToDate"


def _xenstore() -> tuple[tuple[beneath.Backend, ...], tuple[str, ...]]:
    with Xenstore() as tree:
        backends = beneath.backends(tree)
        named = (tree.read(f"/local/domain/{domid}/name") for domid in tree.list("/local/domain"))
        return tuple(backends), tuple(name for name in named if name)


def _aged(intent: dict[str, str], now: float) -> dict[str, str]:
    begun = insync.seconds(intent.get("since", ""))
    return {**intent, "age": f"{max(0.0, now - begun) if begun is not None else 0.0:.0f}"}


def _taken_over(records: dict[str, dict[str, str]]) -> frozenset[str]:
    found = set()
    for name in statefile.names(paths.PERMITS):
        permit = statefile.read(f"{paths.PERMITS}/{name}") or {}
        if permit.get("why") == "takeover" and name in records:
            found.add(records[name].get("vm", ""))
    return frozenset(found)
