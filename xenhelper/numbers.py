"""Numbers for new resources from both hosts at once: leases, surveys, the choice.

The lease of the host with the lower name is taken first, so that creates on both hosts,
twenty at once if need be, take turns and never wait for each other in a ring.
"""

from collections.abc import Mapping
from typing import Any

from xenhelper import allocate, lease
from xenhelper.consider import Considered
from xenhelper.errors import XenhelperError
from xenhelper.peer.client import ask

_SHORT = 6.0


def leases(found: Considered) -> tuple[str, dict[str, Any]]:
    """Both hosts' allocation leases, that of the lower name first: (our token, the peer's
    answer with its token and survey)."""
    here, peer, vm = found.settings.host, found.peer, found.request.vm
    request = {**survey_args(found), "wait": lease.WAIT}

    def take_there() -> dict[str, Any]:
        return ask(peer, "replicate-lease", request, timeout=lease.WAIT + 15)

    if here < peer:
        ours = lease.take(f"{here} for {vm}")
        try:
            return ours, take_there()
        except BaseException:
            lease.give_back(ours)
            raise
    theirs = take_there()
    try:
        return lease.take(f"{here} for {vm}"), theirs
    except BaseException:
        unlease(peer, theirs)
        raise


def unlease(peer: str, theirs: Mapping[str, Any]) -> None:
    try:
        ask(peer, "replicate-unlease", {"token": theirs["token"]}, timeout=_SHORT)
    except XenhelperError:
        pass  # it runs out by itself


def survey_args(found: Considered) -> dict[str, object]:
    """What a survey of the peer is asked with."""
    settings = found.settings
    return {"vm": found.request.vm, "minors": list(settings.minors), "ports": list(settings.ports)}


def survey_of(answer: Mapping[str, Any]) -> allocate.Survey:
    return allocate.Survey(
        frozenset(answer["names"]), frozenset(answer["minors"]), frozenset(answer["ports"])
    )


def slots_for(found: Considered, theirs: allocate.Survey) -> list[allocate.Slot]:
    """Choose, from the peer's survey and one made here now."""
    settings, vm = found.settings, found.request.vm
    ours = allocate.survey(vm, settings.minors, settings.ports, host=settings.host)
    vdevs = [item.vdev for item in found.fresh]
    return allocate.choose(vm, vdevs, (ours, theirs), settings.minors, settings.ports)


def preview(found: Considered) -> list[allocate.Slot]:
    """The slots that a run begun now would get; nothing is locked or kept."""
    return slots_for(found, survey_of(ask(found.peer, "replicate-survey", survey_args(found), timeout=20.0)))
