"""Deliberate breakages of the product: each must be caught, or the simulation is too kind."""

import contextlib
import itertools
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

from tests.sim.here import me


def _patched(*changes: "tuple[Any, str, Any]") -> "contextlib.ExitStack":
    stack = contextlib.ExitStack()
    for target, name, value in changes:
        stack.enter_context(unittest.mock.patch.object(target, name, value))
    return stack


def no_drain() -> "contextlib.ExitStack":
    """Neither waits for the writes of protocol A nor for what is in flight."""
    from xenhelper.drbd import barrier, events

    return _patched(
        (barrier, "drain", lambda *_: None),
        (barrier, "quiet", lambda name, _: events.one(name)),
    )


def grant_from_destination() -> "contextlib.ExitStack":
    """The destination opens the window itself."""
    from xenhelper import handover
    from xenhelper.drbd import show, verbs

    def await_grant(resource: str, *_: Any) -> None:
        settings = show.one(resource)
        assert settings is not None
        verbs.net_options(settings.local, settings.remote, "C", True)

    return _patched((handover, "await_grant", await_grant))


def grant_before_suspension() -> "contextlib.ExitStack":
    """Two-primaries yes from the start, with the guest writing at A until then."""
    from xenhelper import handover, window
    from xenhelper.drbd import barrier, show, verbs

    def synchronous(self: Any, name: str) -> None:
        settings = show.one(name)
        assert settings is not None
        verbs.net_options(settings.local, settings.remote, "C", True)

    return _patched(
        (window.Window, "_synchronous", synchronous),
        (handover, "_granted", lambda *_: True),
        (barrier, "drain", lambda *_: None),
        (window, "serve_begin", lambda peer, args: {}),
    )


def no_second_look() -> "contextlib.ExitStack":
    """Promotes without the check after it, and doesn't mind a lost link. Fencing alone
    keeps that from doing harm, so both are without it: this is the layer behind."""
    from xenhelper import handover, hotplug
    from xenhelper.drbd import events

    def drained(*_: object) -> None:
        return None

    def await_grant(*args: Any) -> None:
        with contextlib.suppress(Exception):
            original(*args)

    original = handover.await_grant

    def decide(resource: events.Resource, incoming: bool, *more: Any) -> str:
        try:
            return decided(resource, incoming, *more)
        except Exception:
            if incoming and not resource.connected:
                return hotplug.PROMOTE
            raise

    decided = hotplug.decide
    stack = no_fencing()
    stack.enter_context(
        _patched(
            (hotplug, "_still_right", lambda how, after: True),
            (hotplug, "_drained", drained),
            (hotplug, "decide", decide),
            (handover, "await_grant", await_grant),
        )
    )
    return stack


def no_fencing() -> "contextlib.ExitStack":
    """The handler says "gone, go on" whatever the peer says; consent isn't asked for."""
    from xenhelper import fence

    return _patched(
        (fence, "fence_peer", lambda name: (fence.OUTDATED, "not asked")),
        (fence, "ask_consent", lambda *_: None),
    )


def no_debugfs() -> "contextlib.ExitStack":
    """A host that doesn't show DRBD's requests: what the source knows of them is less."""
    from xenhelper.drbd import barrier

    return _patched((barrier, "unconfirmed_since", lambda name, switched: False))


def no_wait_for_disk() -> "contextlib.ExitStack":
    """Doesn't wait for lower-pending:0; without debugfs nothing else does."""
    from xenhelper import hotplug
    from xenhelper.drbd import barrier

    return _patched(
        (hotplug, "_drained", lambda *_: None),
        (barrier, "unconfirmed_since", lambda name, switched: False),
    )


def no_intent() -> "contextlib.ExitStack":
    """Windows without intents, and a reconciler that acts on intents only."""
    from xenhelper import intents, reconcile

    return _patched(
        (intents, "write", lambda *_, **__: None),
        (reconcile, "_unsteady", lambda records: False),
    )


def no_revert() -> "contextlib.ExitStack":
    """Nothing reverts what a crash left: neither reconciler nor a later end."""
    from xenhelper import window

    return _patched((window, "close_one", lambda name, seconds: ""))


def standalone_left() -> "contextlib.ExitStack":
    """A side that is StandAlone stays so."""
    from xenhelper import reconcile

    return _patched((reconcile, "_connect", lambda record, dry_run: ""))


def double_start() -> "contextlib.ExitStack":
    """Starts wherever DRBD lets it, whoever uses the disk elsewhere: in a migration's window,
    and where a Primary is left over."""
    from xenhelper import hotplug, stepdown
    from xenhelper.drbd import events

    def promote(disk: Any, resource: events.Resource, deadline: float) -> events.Resource:
        if resource.role == events.PRIMARY:
            return resource
        return promoted(disk, resource, deadline)

    def decide(resource: events.Resource, incoming: bool, *more: Any) -> str:
        if resource.connected and resource.peer_role == events.PRIMARY and not incoming:
            return hotplug.PROMOTE
        return decided(resource, incoming, *more)

    def step_down(name: str, *more: Any) -> "events.Resource | None":
        # `remove` goes on as ever, or no migration would end
        return events.one(name) if me().name == "block add" else stepped(name, *more)

    promoted, decided, stepped = hotplug._promote, hotplug.decide, stepdown.step_down
    return _patched(
        (hotplug, "_promote", promote),
        (hotplug, "decide", decide),
        (hotplug, "_still_right", lambda how, after: True),
        (stepdown, "step_down", step_down),
    )


def demote_unconfirmed() -> "contextlib.ExitStack":
    """Steps down with writes of protocol A on their way."""
    from xenhelper import stepdown

    return _patched((stepdown, "_synchronous", lambda name: False))


def late_grant() -> "contextlib.ExitStack":
    """Grants without looking whether the guest goes on meanwhile."""
    from xenhelper import handover, hotplug

    original = handover.grant

    def grant(name: str, resumed: "Callable[[], bool]", seconds: float = 12.0) -> None:
        original(name, lambda: False, seconds)

    def serve(peer: str, args: "dict[str, str]") -> "dict[str, object]":
        name, _ = handover._of_peer(peer, args["resource"])
        original(name, lambda: False)
        return {"granted": True}

    def lock(resource: str, seconds: float) -> int:
        return locked(f"{resource}-{next(numbers)}" if resource.startswith("grant-") else resource, seconds)

    locked, numbers = hotplug.lock, itertools.count()
    return _patched((handover, "grant", grant), (handover, "serve_grant", serve), (hotplug, "lock", lock))


def old_permission() -> "contextlib.ExitStack":
    """Takes a permission that merely shows for a grant."""
    from xenhelper import handover
    from xenhelper.drbd import show

    original = handover._granted

    def granted(resource: str, domid: int) -> bool:
        settings = show.one(resource)
        return original(resource, domid) or (settings is not None and settings.two_primaries)

    return _patched((handover, "_granted", granted))


def permit_outlives_return() -> "contextlib.ExitStack":
    """What a takeover permitted lasts until the reconciler's round, whoever is heard of before."""
    from xenhelper import dead

    return _patched((dead, "heard", lambda peer: None), (dead, "met", lambda states, records: None))


BREAKAGES: "dict[str, Callable[[], contextlib.AbstractContextManager[Any]]]" = {
    "no drain": no_drain,
    "grant from the destination": grant_from_destination,
    "grant before suspension": grant_before_suspension,
    "no look after the promotion": no_second_look,
    "no fencing": no_fencing,
    "no wait for lower-pending": no_wait_for_disk,
    "no intent": no_intent,
    "no revert": no_revert,
    "StandAlone left alone": standalone_left,
    "double start allowed": double_start,
    "demoted unconfirmed": demote_unconfirmed,
    "grant after the guest went on": late_grant,
    "permit outlives the return": permit_outlives_return,
}
# what the breakage is to be compared with, where that isn't the product as it is
WITHOUT: "dict[str, Callable[[], contextlib.AbstractContextManager[Any]]]" = {
    "no look after the promotion": no_fencing,
    "no wait for lower-pending": no_debugfs,
}


def schedules_until_caught(name: str, limit: int, seed: int = 1) -> "Iterator[tuple[int, Any]]":
    """Yield (number of schedules run, failure or None) until ``name`` is caught: a schedule
    that breaks a promise with the breakage and none without."""
    from tests.sim import schedule

    breakage = BREAKAGES[name]
    without = WITHOUT.get(name, contextlib.nullcontext)
    for number in range(limit):
        with breakage():
            failure = schedule.run_seed(seed + number).failed
        if failure is not None:
            # what doesn't fit the product's functions any more breaks nothing but itself
            assert failure.promise != "crash", f"{name}: {failure}"
            with without():
                if schedule.run_seed(seed + number).failed is not None:
                    failure = None
        yield number + 1, failure
        if failure is not None:
            return
