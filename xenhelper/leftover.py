"""What the reconciler leaves for a person: told once it has stayed for a few rounds.

A round may come while the other host boots or xl is still at it; so the first finding is
noted under /run, and an alert comes of it only when it is there :data:`STAYS` later.
"""

import time

from xenhelper import alerts, insync, paths, statefile

# seconds; a round comes each minute (xenhelper-reconcile.timer)
STAYS = 100.0


def path(vm: str) -> str:
    """Where it is noted since when something of ``vm`` is left."""
    return f"{paths.RUN}/left/{vm}"


def note(vm: str, lines: "list[str]") -> None:
    """One round has left ``lines`` of ``vm`` (none: it is all right). Never raises."""
    if not lines:
        if statefile.names(paths.RUN + "/left"):
            statefile.remove(path(vm))
        alerts.try_clear("left", vm, "nothing is left to do")
        return
    now = time.time()
    since = insync.seconds((statefile.read(path(vm)) or {}).get("since", ""))
    if since is None or since > now:
        statefile.write(path(vm), {"vm": vm, "since": insync.stamp(now)})
    elif now - since >= STAYS:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        alerts.try_raise(
            "left",
            vm,
            f"the reconciler can't put this right by itself: {lines[0]}{more}",
            f"`xenhelper reconcile {vm}` says it all" if more else "",
            vm=vm,
            severity=alerts.ERROR,
        )
