"""Permits to promote without the peer's word, for this boot only (``/run``).

Two ways to get one: this host was Primary when it lost its peer and has kept the only
newest data since, or ``xenhelper takeover`` was ordered. Either is bound to the
generation of the data: once the peers have met again it counts no more.
"""

from xenhelper import paths, statefile
from xenhelper.drbd import verbs
from xenhelper.errors import XenhelperError

SURVIVOR, TAKEOVER = "survivor", "takeover"


def path(resource: str) -> str:
    """Where the permit of ``resource`` is kept."""
    return f"{paths.PERMITS}/{resource}"


def grant_survivor(resource: str, minor: int) -> None:
    """Note that this host was Primary while alone. Without a generation of its own
    (nothing was ever written without the peer) there is nothing to note."""
    current, bitmap = verbs.generation(minor)
    if bitmap:
        statefile.write(path(resource), {"why": SURVIVOR, "current": f"{current:016x}"})


def keep_survivor(vm: str, resources: "list[str]") -> None:
    """Note the same while ``vm`` goes on running here, for each disk that is Primary and
    alone: its `remove`, which would note it, may never come, and the peer may die first.

    Where the link was lost in the middle of a migration, the fence-peer handler couldn't
    know yet which side has the newest data; here it is plain. The generation is read
    before the look at the domain, so whatever happens after that look makes another one.
    """
    from xenhelper.drbd import events
    from xenhelper.stepdown import window_open
    from xenhelper.xen import domains

    alone = {}
    for name in resources:
        state = events.one(name)
        if state is None or state.role != events.PRIMARY or state.connected or window_open(name, vm):
            continue
        current, bitmap = verbs.generation(state.minor)
        if bitmap and not valid(name, state.minor):
            alone[name] = f"{current:016x}"
    if alone and any(d.name == vm and d.state[2:6] == "----" for d in domains.find(vm)):
        for name, generation in alone.items():
            statefile.write(path(name), {"why": SURVIVOR, "current": generation})


def grant_takeover(resource: str, minor: int) -> None:
    """An operator (or a fence command) vouches that the peer is dead: it holds until that is
    heard of (dead.py)."""
    import time  # not for the block script, which imports this module

    from xenhelper import insync

    current, _ = verbs.generation(minor)
    at = insync.stamp(time.time())
    statefile.write(path(resource), {"why": TAKEOVER, "current": f"{current:016x}", "at": at})


def revoke(resource: str) -> None:
    """The peers have met again."""
    statefile.remove(path(resource))
    statefile.remove(f"{paths.RUN}/hearsay/{resource}")


def valid(resource: str, minor: int) -> bool:
    """Whether a permit exists and is of the data's generation now.

    A survivor's own generation has a bitmap UUID until the peer is in sync again; a peer
    that became Primary after that makes a generation that isn't in this permit.
    """
    permit = statefile.read(path(resource))
    if permit is None:
        return False
    try:
        current, bitmap = verbs.generation(minor)
    except XenhelperError:
        return False
    if permit.get("current") != f"{current:016x}":
        return False
    return permit.get("why") == TAKEOVER or bitmap != 0
