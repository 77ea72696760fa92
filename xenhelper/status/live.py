"""``status --watch``: the same again and again. With python3-rich on a terminal it has bars and
is redrawn in place; without it the screen is cleared, or (no terminal) each look follows the last.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from xenhelper.status import text

EVERY = 2.0  # seconds between two looks
_CLEAR = "\033[H\033[2J"


def colour() -> bool:
    """Whether output may have colours: a terminal that can, and nobody asked for none
    (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def watch(look: Callable[[], dict[str, Any]]) -> None:
    """Until interrupted. ``look`` gives status's answer."""
    try:
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            try:
                import rich.live
            except ImportError:
                pass
            else:
                _rich(look, rich.live.Live)
                return
        while True:
            stamp = time.strftime("%H:%M:%S")
            clear = _CLEAR if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else ""
            print(f"{clear}{stamp}\n{text.render(look(), colour())}", flush=True)
            time.sleep(EVERY)
    except KeyboardInterrupt:
        return


def _rich(look: Callable[[], dict[str, Any]], live: Any) -> None:
    from rich.console import Console

    console = Console(no_color=not colour(), highlight=False)
    with live(draw(look()), console=console, auto_refresh=False, screen=False) as screen:
        while True:
            time.sleep(EVERY)
            screen.update(draw(look()), refresh=True)


def draw(answer: dict[str, Any]) -> Any:
    """The answer as something that rich prints."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(time.strftime("%H:%M:%S") + f"  {answer['host']}", style="dim")]
    pairs = text.several_peers(answer)
    for vm in answer["vms"]:
        parts.append(Text.assemble((vm["name"], "bold"), f"  {text.where(vm, pairs)}"))
        table = Table.grid(padding=(0, 2))
        for disk in vm["disks"]:
            well = disk["disk_state"] == disk["peer_disk_state"] == "UpToDate"
            percent = disk["activity_percent"]
            bar: Any = ""
            if disk["activity"] and percent is not None:
                bar = ProgressBar(total=100.0, completed=percent, width=20)
            table.add_row(
                "  " + disk["vdev"],
                Text(disk["connection"], style="green" if disk["connection"] == "Connected" else "red"),
                f"{disk['role']}/{disk['peer_role']}",
                Text(f"{disk['disk_state']}/{disk['peer_disk_state']}", style="green" if well else "yellow"),
                disk["protocol"] + (", two Primaries" if disk["two_primaries"] else ""),
                bar,
                text.activity(disk) if disk["activity"] else "",
            )
        parts.append(table)
    if not answer["vms"]:
        parts.append(Text("no VM is replicated on this host"))
    styles = {"warning": "yellow", "error": "red", "critical": "bold red"}
    for problem in answer["problems"]:
        head = (problem["severity"], styles.get(problem["severity"], ""))
        parts.append(Text.assemble(head, f": {problem['what']}"))
        if problem["do"]:
            parts.append(Text(f"  do: {problem['do']}", style="dim"))
    return Group(*parts)
