"""What a resource's connection is set to while no migration is under way, and the way back to it."""

from xenhelper import log
from xenhelper.drbd import events, show, verbs
from xenhelper.errors import CommandFailed


def protocol(record: "dict[str, str]", state: events.Resource) -> str:
    """The protocol outside of migrations: the record's, but C while the Primary has no
    current disk of its own. At A it would acknowledge writes that are on no disk anywhere."""
    if state.connected and (
        (state.role == events.PRIMARY and state.disk != events.UP_TO_DATE)
        or (state.peer_role == events.PRIMARY and state.peer_disk != events.UP_TO_DATE)
    ):
        return "C"
    return record.get("protocol", "A")


def close(name: str, wanted: str, left: "show.Settings | None" = None) -> None:
    """Back to the steady protocol, two-primaries no, in one call on either host.

    ``left``: what the caller has just set and found, which needs no look then.
    """
    settings = left if left is not None and left.remote else show.one(name)
    while settings is not None and settings.remote:
        if settings is not left and not settings.two_primaries and settings.protocol == wanted:
            return
        try:
            verbs.net_options(settings.local, settings.remote, wanted, False)
        except CommandFailed:
            if settings is not left:
                raise
            settings = show.one(name)  # the connection went, or was made anew, meanwhile
            continue
        log.event("window-closed", f"{name}: protocol {wanted}, two-primaries no", resource=name)
        return


def closed(state: events.Resource, wanted: str) -> bool:
    """Whether its protocol alone tells that no window is open: DRBD allows two Primaries at C
    only, and takes both settings in one (ERR_NOT_PROTO_C, drbd_nl.c)."""
    return state.protocol == wanted != "C"
