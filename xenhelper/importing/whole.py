"""Every disk of an import is copied, read back and compared, until it is here as it is there."""

from xenhelper import statefile
from xenhelper.errors import Refused, XenhelperError
from xenhelper.importing import copy, far, find, look, plan, sums
from xenhelper.importing.plan import Item, Plan
from xenhelper.progress import Progress

# how often a source that somebody changes is followed
_ROUNDS = 3


def bring(old: far.Far, made: Plan, limit: int, seen: look.Seen) -> dict[str, str]:
    """Copy and compare until every disk is here as it is there: SHA-256 by vdev.

    Raises Refused when somebody goes on writing there, XenhelperError.
    """
    lists = {item.vdev: sums.Sums(file(made, item, "sums"), copy.count(item)) for item in made.items}
    digests: dict[str, str] = {}
    for _ in range(_ROUNDS):
        sure = _settle(old, made, lists, seen)
        digests = {vdev: digest for vdev, digest in digests.items() if not lists[vdev].missing()}
        _copy(old, made, limit, lists)
        digests |= _read_back(made, lists, digests)
        seen = find.there_now(old, made.vm, [(item.vdev, item.source) for item in made.items])
        plan.check_same(made, made.vm, old.host, seen, [(item.vdev, item.source) for item in made.items])
        if len(digests) == len(made.items) and all(
            item.vdev in sure or _proven(made, item, seen) for item in made.items
        ):
            return digests
    if len(digests) < len(made.items):
        raise XenhelperError(
            f"{made.vm}: a volume here doesn't give back what is written to it", "see `dmesg`"
        )
    raise Refused(
        f"{made.vm}: its disks on {made.host} are being written to",
        "see who does, there; the same command again copies what has changed",
    )


def _settle(old: far.Far, made: Plan, lists: dict[str, sums.Sums], seen: look.Seen) -> set[str]:
    """What is here of each disk is what is there, or is copied anew. Returns the disks that were
    compared with their source just now, whole, and are the same."""
    sure = set()
    for item in made.items:
        known, mark = lists[item.vdev], seen.thing(item.source).mark
        if known.missing() == known.count or _proven(made, item, seen):
            wrong = None
        else:
            done = (known.count - known.missing()) * copy.CHUNK
            bar = Progress(f"{made.vm} {item.vdev}: compared with {made.host}", min(done, item.size))
            try:
                wrong = copy.compare(old, item, known, bar.add)
            finally:
                bar.end()
            known.drop(wrong)
        if not _proven(made, item, seen):
            statefile.write(file(made, item, "mark"), {"mark": mark})
        if wrong == [] and not known.missing():
            sure.add(item.vdev)
    return sure


def _proven(made: Plan, item: Item, seen: look.Seen) -> bool:
    """Whether nothing was written to the source since the first chunk that is here was read."""
    mark = seen.thing(item.source).mark
    return bool(mark) and (statefile.read(file(made, item, "mark")) or {}).get("mark") == mark


def _copy(old: far.Far, made: Plan, limit: int, lists: dict[str, sums.Sums]) -> None:
    missing = sum(known.missing() for known in lists.values())
    if not missing:
        return
    bar = Progress(f"{made.vm}: copied", made.size, max(0, made.size - missing * copy.CHUNK))
    try:
        for item in made.items:
            copy.bring(old, item, lists[item.vdev], limit, bar.add)
    finally:
        bar.end()


def _read_back(made: Plan, lists: dict[str, sums.Sums], known: dict[str, str]) -> dict[str, str]:
    """SHA-256 of the disks that weren't read back yet, of those that are well."""
    left = [item for item in made.items if item.vdev not in known]
    if not left:
        return {}
    bar = Progress(f"{made.vm}: read back", sum(item.size for item in left))
    found = {}
    try:
        for item in left:
            wrong, digest = copy.read_back(item, lists[item.vdev], bar.add)
            if wrong:
                lists[item.vdev].drop(wrong)
            else:
                found[item.vdev] = digest
    finally:
        bar.end()
    return found


def file(made: Plan, item: Item, what: str) -> str:
    """Where the ``sums`` of a disk are, and the ``mark`` of its source of before the first one."""
    return f"{sums.folder(made.vm)}/{item.vdev}.{what}"
