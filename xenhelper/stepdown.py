"""Stepping down: from Primary to Secondary, but only once the peer has every write.

A Primary that loses its peer begins a generation of data of its own; a Secondary doesn't.
So if writes that protocol A has acknowledged were still on their way when a host steps
down, and the link died then, DRBD would find both copies of one generation afterwards,
copy nothing, and the next start on the peer would lack those writes. Hence protocol C
first, then the confirmation of what was queued before, then the demotion.
"""

import time

from xenhelper import permits
from xenhelper.drbd import barrier, events, show, verbs
from xenhelper.errors import CommandFailed, Refused


def step_down(name: str, seconds: float) -> "events.Resource | None":
    """Demote this host's side of ``name``; nothing to do when it isn't Primary.

    Leaves protocol C, for the caller to close. Notes a survivor's permit when it was
    alone. Returns the state before. Raises XenhelperError and stays Primary when the
    peer doesn't confirm, or the device is held open, for ``seconds``.
    """
    deadline = time.monotonic() + seconds
    state = events.one(name)
    if state is None or state.role != events.PRIMARY:
        return state
    if state.connected:
        _confirmed(name, deadline)
    verbs.secondary(state.minor, max(1.0, deadline - time.monotonic()))
    after = events.one(name)
    if after is not None and not after.connected:
        permits.grant_survivor(name, state.minor)
    return state


def _confirmed(name: str, deadline: float) -> None:
    settings = show.one(name)
    if settings is None or not settings.remote:
        return
    if settings.protocol != "C":
        try:
            verbs.net_options(settings.local, settings.remote, "C", False)
        except CommandFailed:
            state = events.one(name)
            if state is not None and state.connected:
                raise
            return
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
