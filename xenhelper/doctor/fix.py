"""``doctor --fix``: on this host, what setup made once and is gone. Each step looks first.

Nothing that holds data, nothing that an administrator may have meant (xendomains, say,
which setup turned off once), and nothing on the other host.
"""

from collections.abc import Callable
from functools import partial

from xenhelper.config import Config
from xenhelper.errors import XenhelperError
from xenhelper.setup import half


def run(settings: Config, dry_run: bool) -> list[str]:
    """What was done (or would be), one line each; a step that fails says why and keeps no
    other from being taken."""
    steps: list[Callable[[], list[str]]] = [partial(half.link_shim, dry_run)]
    steps += [partial(half.enable_units, peer, dry_run, restart=False) for peer in sorted(settings.peers)]
    done = []
    for step in steps:
        try:
            done += step()
        except XenhelperError as error:
            done.append(f"not done: {error}")
    return done
