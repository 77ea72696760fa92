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


def grant_takeover(resource: str, minor: int) -> None:
    """An operator (or a fence command) vouches that the peer is dead."""
    current, _ = verbs.generation(minor)
    statefile.write(path(resource), {"why": TAKEOVER, "current": f"{current:016x}"})


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
