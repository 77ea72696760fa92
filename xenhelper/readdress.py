"""A replication address was changed: every resource of that peer gets the new ones.

By ``xenhelper setup PEER``, on each host after its configuration. The connection is made
anew, the disks aren't touched and guests go on; the other host's copy lags for the
seconds until both have it, and is brought up to date by itself.
"""

import os
from collections.abc import Mapping

from xenhelper import config, intents, log, paths, provision, rebuild, statefile
from xenhelper.drbd import bringup, resfile
from xenhelper.errors import Refused, XenhelperError
from xenhelper.xen import domains


def due(peer: config.Peer, records: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The records of ``peer``'s resources that have other addresses, with the new ones (pure)."""
    changed = {}
    for name, record in records.items():
        if record.get("peer") != peer.name or not record.get("port", "").isdecimal():
            continue
        port = int(record["port"])
        wanted = {
            "address": resfile.endpoint(peer.local_replication, port),
            "peer_address": resfile.endpoint(peer.replication, port),
        }
        if any(record.get(key) != value for key, value in wanted.items()):
            changed[name] = {**record, **wanted}
    return changed


def here(peer_name: str, dry: bool = False) -> list[str]:
    """Give this host's ends of the peer's resources the configured addresses; a line for
    each VM. Raises XenhelperError for the first that can't have them now."""
    peer = config.load().peer(peer_name)
    lines = []
    for vm in sorted({record["vm"] for record in due(peer, provision.vm_records()).values()}):
        if not dry:
            _one(vm, peer)
        lines.append(f"replicate {vm} from {peer.local_replication} to {peer.replication}")
    return lines


def _one(vm: str, peer: config.Peer) -> None:
    fd = intents.lock(vm, who="setup")
    try:
        if intents.read("window", vm) is not None or domains.migrating(vm):
            raise Refused(f"{vm} is migrating, and keeps its replication addresses for that", "setup again")
        for intent in intents.all_open():
            if intent.get("vm") == vm:
                kind = intent.get("kind", "change")
                raise Refused(f"{vm}: a {kind} isn't finished", "`xenhelper reconcile`, then setup again")
        text = resfile.read(vm)
        if text is not None and not resfile.is_ours(text, vm):
            raise XenhelperError(f"{resfile.path(vm)} isn't xenhelper's", "move it away, then setup again")
        records = provision.vm_records(vm)
        changed = due(peer, records)
        new = resfile.render(vm, rebuild.entries({**records, **changed}.values(), text or ""))
        statefile.write_atomically(resfile.path(vm), new.encode())
        for name in changed:
            bringup.up(vm, name)
        # last: whoever finds the old ones here does it all again
        for name, record in changed.items():
            statefile.write(f"{paths.RESOURCES}/{name}", record)
        log.event("note", f"{vm}: replicates at other addresses now", log.NOTICE, vm=vm)
    finally:
        os.close(fd)
