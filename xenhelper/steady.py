"""What a resource's connection is set to while no migration is under way, and the way back to it."""

from xenhelper import log
from xenhelper.drbd import events, show, verbs


def protocol(record: "dict[str, str]", state: events.Resource) -> str:
    """The protocol outside of migrations: the record's, but C while the Primary has no
    current disk of its own. At A it would acknowledge writes that are on no disk anywhere."""
    if state.connected and (
        (state.role == events.PRIMARY and state.disk != events.UP_TO_DATE)
        or (state.peer_role == events.PRIMARY and state.peer_disk != events.UP_TO_DATE)
    ):
        return "C"
    return record.get("protocol", "A")


def closed(state: events.Resource, wanted: str) -> bool:
    """Whether its protocol alone tells that no window is open: DRBD allows two Primaries at C
    only (ERR_NOT_PROTO_C, drbd_nl.c). A look that doesn't know the protocol tells nothing."""
    return state.protocol == wanted != "C"


def close(name: str, wanted: str) -> None:
    """Back to the steady protocol, two-primaries no, in one call on either host."""
    settings = show.one(name)
    if settings is None or not settings.remote:
        return
    if settings.two_primaries or settings.protocol != wanted:
        verbs.net_options(settings.local, settings.remote, wanted, False)
        log.event("window-closed", f"{name}: protocol {wanted}, two-primaries no", resource=name)
