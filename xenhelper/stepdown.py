"""Stepping down: from Primary to Secondary, but only once the peer has every write.

A Primary that loses its peer begins a generation of data of its own; a Secondary doesn't.
So if writes that protocol A has acknowledged were still on their way when a host steps
down, and the link died then, DRBD would find both copies of one generation afterwards,
copy nothing, and the next start on the peer would lack those writes. Hence protocol C
first, then the confirmation of what was queued before, then the demotion.
"""

import time

from xenhelper import intents, permits
from xenhelper.drbd import barrier, events, show, verbs
from xenhelper.errors import CommandFailed, PeerUnreachable, Refused, XenhelperError

# seconds after which DRBD has noticed a dead peer: ping-int 10 and ping-timeout 3 (resfile.py)
_NOTICED = 15.0


def step_down(name: str, peer: str, vm: str, seconds: float) -> "events.Resource | None":
    """Demote this host's side of ``name``; nothing to do when it isn't Primary.

    A ``peer`` that died a moment ago still shows as connected. Stepping down before DRBD
    notices would cost this host the proof that it was Primary then, and its guest the
    right to start again; so when ``peer`` doesn't answer, DRBD gets the time to notice.
    Leaves protocol C, for the caller to close. Notes a survivor's permit when it was
    alone and ``vm``, the domain that ran until now (empty: none did), is no half of a
    migration: where both hosts were Primary when the link died, the other may have the
    newest data. Returns the state before. Raises XenhelperError and stays Primary when the
    peer doesn't confirm, or the device is held open, for ``seconds``.
    """
    deadline = time.monotonic() + seconds
    state = events.one(name)
    if state is None or state.role != events.PRIMARY:
        return state
    if state.connected:
        if peer and state.peer_role != events.PRIMARY and not _answers(peer):
            _notice(name, min(deadline - 4.0, time.monotonic() + _NOTICED))
        # with two Primaries it can't become another one than C meanwhile
        known = state.protocol == "C" and state.peer_role == events.PRIMARY
        if known or _synchronous(name):
            _confirmed(name, deadline)
    verbs.secondary(state.minor, max(1.0, deadline - time.monotonic()), name=name)
    after = events.one(name)
    if after is not None and not after.connected and vm and not window_open(name, vm):
        permits.grant_survivor(name, state.minor)
    return state


def window_open(name: str, vm: str) -> bool:
    """Whether anything of a migration shows here: the peer may be Primary, too."""
    settings = show.one(name)
    return intents.read("window", vm) is not None or (settings is not None and settings.two_primaries)


def _answers(peer: str) -> bool:
    from xenhelper.peer import client

    try:
        client.ask(peer, "here", {}, timeout=2.0)
    except PeerUnreachable:
        return False
    except XenhelperError:
        pass  # it answered something
    return True


def _notice(name: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        state = events.one(name)
        if state is None or not state.connected:
            return
        time.sleep(0.25)


def _synchronous(name: str) -> bool:
    """Protocol C from here on; False where the peer was lost meanwhile."""
    settings = show.one(name)
    if settings is None or not settings.remote:
        return False
    if settings.protocol != "C":
        try:
            verbs.net_options(settings.local, settings.remote, "C", False)
        except CommandFailed:
            state = events.one(name)
            if state is not None and state.connected:
                raise
            return False
    return True


def _confirmed(name: str, deadline: float) -> None:
    switched = time.monotonic()
    while barrier.unconfirmed_since(name, switched):
        state = events.one(name)
        if state is None or not state.connected:
            return  # lost while Primary: this side has a generation of its own now
        if time.monotonic() > deadline:
            raise Refused(
                f"{name}: the peer doesn't confirm the last writes, so this host stays Primary",
                "`xenhelper reconcile` once the link is well",
            )
        time.sleep(0.05)
