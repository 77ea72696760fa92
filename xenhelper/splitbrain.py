"""Split brain: both hosts wrote to their copy of a disk while they didn't see each other.

DRBD finds it when they meet again, and calls our handler, which leaves a durable mark;
the reconciler finds it by comparing the generations of both copies, and leaves one too.
While a mark is there nothing is reconnected by machine: which side's writes go is a
person's decision, ``xenhelper recover VM --discard HOST``.
"""

import os
import time

from xenhelper import alerts, insync, log, names, paths, statefile
from xenhelper.drbd import events, verbs
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.xen import domains

SAME, NEWER, OLDER, SPLIT, UNRELATED = "same", "newer", "older", "split", "unrelated"
# drbd.h: a copy that was never in sync with anything
_JUST_CREATED = 4


def path(resource: str) -> str:
    """Where the mark of ``resource`` is."""
    return f"{paths.STATE}/split_brain/{resource}"


def compare(mine: "tuple[int, ...]", theirs: "tuple[int, ...]") -> str:
    """How my copy stands to theirs, from both (current, bitmap, history, history) UUIDs.

    drbd_uuid_compare() of DRBD 8.4, as far as it matters who has what: NEWER means that
    my copy has all of theirs. The lowest bit (Primary) counts nowhere.
    """
    mine = tuple(value & ~1 for value in mine)
    theirs = tuple(value & ~1 for value in theirs)
    fresh = (0, _JUST_CREATED)
    if mine[0] == theirs[0] or (mine[0] in fresh and theirs[0] in fresh):
        return SAME
    if mine[0] in fresh:
        return OLDER
    if theirs[0] in fresh:
        return NEWER
    if mine[0] in theirs[1:]:
        return OLDER
    if theirs[0] in mine[1:]:
        return NEWER
    if {value for value in mine[1:] if value not in fresh} & set(theirs[1:]):
        return SPLIT
    return UNRELATED


def marked(resource: str) -> "dict[str, str] | None":
    """The mark of ``resource``, if there is one."""
    return statefile.read(path(resource))


def mark(resource: str, vm: str, found_by: str) -> None:
    """Leave the mark, durably, and say so once."""
    if marked(resource) is not None:
        return
    now = insync.stamp(time.time())
    statefile.write(path(resource), {"resource": resource, "vm": vm, "since": now, "found_by": found_by})
    log.event(
        "split-brain",
        f"{resource}: split brain: both hosts wrote to their own copy; `xenhelper status {vm}` tells both "
        f"sides' story, `xenhelper recover {vm} --discard HOST` ends it",
        log.ERROR,
        vm=vm,
        resource=resource,
    )
    alerts.try_raise(
        "split-brain",
        resource,
        f"{resource}: split brain: both hosts wrote to their own copy",
        f"`xenhelper status {vm}` tells both sides' story, `xenhelper recover {vm} --discard HOST` ends it",
        vm=vm,
        resource=resource,
        severity=alerts.CRITICAL,
    )


def clear(resource: str) -> None:
    """Both sides are one again."""
    if marked(resource) is not None:
        statefile.remove(path(resource))
        log.event("split-brain", f"{resource}: split brain over", log.NOTICE, resource=resource)
        alerts.try_clear("split-brain", resource, "both sides are one again")


def story(name: str, record: "dict[str, str]") -> "dict[str, object]":
    """This side of it: state, generations, how much changed here, who ran here last."""
    state = events.one(name)
    vm = record.get("vm", "")
    known = statefile.read(f"{paths.VMS}/{vm}") or {}
    found: dict[str, object] = {
        "host": record.get("host", "") or os.uname().nodename,
        "up": state is not None,
        "in_sync_at": insync.stamp(insync.last(name) or 0) if insync.last(name) else "",
        "ran_at": known.get("ran_at", ""),
        "last_ran": known.get("last_ran", ""),
        "since": (marked(name) or {}).get("since", ""),
        "domains": [domain.name for domain in domains.find(vm)] if names.valid_vm(vm) else [],
    }
    if state is not None:
        found |= {
            "connection": state.connection,
            "role": state.role,
            "disk": state.disk,
            "changed_bytes": state.out_of_sync,
        }
        if state.disk != "Diskless":
            found["uuids"] = [f"{value:016x}" for value in verbs.uuids(state.minor)]
    return found


def serve_story(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``split-story``: this host's side, for a resource that it shares with ``peer``."""
    name = names.check_resource(args["resource"])
    record = statefile.read(f"{paths.RESOURCES}/{name}")
    if record is None or record.get("peer") != peer:
        raise Refused(f"{name}: not a resource shared with {peer}")
    return story(name, record)


def uuids_of(side: "dict[str, object]") -> "tuple[int, ...]":
    """The UUIDs in a story; empty when that side has no disk now."""
    raw = side.get("uuids")
    try:
        found = tuple(int(str(value), 16) for value in raw) if isinstance(raw, list) else ()
    except ValueError:
        return ()
    return found if len(found) == 4 else ()


def ask_story(peer: str, name: str, timeout: float = 8.0) -> "dict[str, object]":
    """The other side's story. Raises PeerUnreachable, PeerFailed."""
    from xenhelper.peer import client

    return client.ask(peer, "split-story", {"resource": name}, timeout=timeout)


def ends_itself(one: "dict[str, object]", two: "dict[str, object]") -> bool:
    """Whether DRBD ends this split brain by its own rules when both sides meet (pure): one that
    wrote nothing is given up, but not a Primary (resfile.py: after-sb-0pri
    discard-zero-changes, 1pri consensus, 2pri disconnect; drbd_receiver.c).

    So it is when the link went with both Primary at the end of a migration: the source's guest
    was suspended and wrote nothing. DRBD's handler marks it all the same while both still are.
    """
    sides = (one, two)
    secondary = [side for side in sides if side.get("role") == events.SECONDARY]
    # a role that isn't known isn't Secondary
    return any(side.get("changed_bytes") == 0 for side in secondary) and all(
        side.get("role") in (events.PRIMARY, events.SECONDARY) for side in sides
    )


def check(record: "dict[str, str]") -> bool:
    """Whether a StandAlone resource is a split brain that a person must end: as marked, or as
    both copies' generations say now. Leaves or removes the mark. False when the peer can't
    be asked and nothing is marked, or DRBD ends it by itself: connecting again does no harm
    then, DRBD decides (and the mark goes once they have met)."""
    name = record["resource"]
    before = marked(name) is not None
    try:
        there = ask_story(record["peer"], name)
        here = story(name, record)
    except (PeerFailed, PeerUnreachable, XenhelperError):
        return before
    mine, theirs = uuids_of(here), uuids_of(there)
    if not mine or not theirs:
        return before
    how = compare(mine, theirs)
    if how == SPLIT and ends_itself(here, there):
        return False
    if how in (SPLIT, UNRELATED):
        if not before and 0 in (here.get("changed_bytes"), there.get("changed_bytes")):
            # a side that wrote nothing: DRBD's own rules end that (resfile.py, after-sb-…),
            # and where they don't, its handler leaves the mark
            return False
        mark(name, record.get("vm", ""), "the reconciler, by both copies' generations")
        return True
    if before:
        clear(name)
    return False


def tell(side: "dict[str, object]") -> str:
    """One side's story in a phrase, for a person."""
    host = str(side.get("host", "?"))
    if not side.get("up"):
        return f"{host}: not up"
    changed = side.get("changed_bytes")
    words = [f"{int(changed) / 2**20:.0f} MiB changed" if isinstance(changed, int) else "changes unknown"]
    running = side.get("domains")
    if isinstance(running, list) and running:
        words.append(f"runs {', '.join(str(name) for name in running)} now")
    elif side.get("ran_at"):
        words.append(f"the VM was started here last {side['ran_at']}")
    words.append(f"{side.get('role', '?')}, {side.get('disk', '?')}")
    return f"{host}: {'; '.join(words)}"
