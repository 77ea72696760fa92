"""Before the package goes: each VM whose current data is here gets its plain disks back.

With the other host if it answers, else this host's part alone. What another host has, or
may have, the current data of stays as it is: its config here must not start an older copy.
"""

import os

from xenhelper import forget, intents
from xenhelper.errors import EXIT_REFUSED, ConfigError, PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.forget import Elsewhere


def run() -> tuple[list[str], list[str]]:
    """(what was done, or stays and why; what couldn't be finished), a line each.

    Running it again goes on where it stopped. Each VM takes some minutes at most; a host that
    gives no answer is asked once.
    """
    done: list[str] = []
    failed: list[str] = []
    silent: dict[str, str] = {}
    for vm in forget.known():
        try:
            done += _one(vm, silent)
        except Elsewhere as error:
            done.append(f"{vm} stays as it is: {error}")
        except (XenhelperError, OSError) as error:
            failed.append(f"{vm} isn't a plain VM again: {error}")
    return done, failed


def _one(vm: str, silent: dict[str, str]) -> list[str]:
    peer = forget.peer_of(vm)
    if intents.read(forget.KIND, vm) is None:  # else it was begun, by somebody who had looked
        forget.check_current(vm)
    if peer not in silent:
        try:
            return forget.run(vm)
        except (PeerUnreachable, ConfigError) as error:
            silent[peer] = error.what
        except PeerFailed as error:
            if error.exit_code != EXIT_REFUSED:
                raise
            # it runs there, say: then the data is there, whatever this host last knew
            raise Elsewhere(error.what, error.do) from error
    return forget.alone(vm, silent[peer])


def blocked(failed: list[str]) -> Refused:
    """What the package is told so that it doesn't go."""
    return Refused(
        f"{len(failed)} VM{'s' if len(failed) > 1 else ''} on {os.uname().nodename} would be left without "
        "disks that start",
        "mend what the lines above say, then remove the package again",
    )
