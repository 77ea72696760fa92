"""``xenhelper status``: replicated VMs, where they run, how their disks are."""

import argparse
import json
from typing import Any

from xenhelper.errors import EXIT_DONE, UsageError, XenhelperError
from xenhelper.status import judge, live, read, text

HELP = "replicated VMs by name: where they run, how their disks are, what to look at"
EXAMPLES = """\
  xenhelper status                     # every replicated VM
  xenhelper status web1
  xenhelper status --check             # for monitoring: exit 0, 4 degraded, 5 broken
  xenhelper status --watch
  xenhelper status --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument("vm", nargs="*", metavar="VM", help="only these VMs")
    parser.add_argument("--json", action="store_true", help="for programs; the format is a contract")
    parser.add_argument("--watch", action="store_true", help="again and again, until interrupted")
    parser.add_argument("--check", action="store_true", help="exit 4 when degraded, 5 when broken")


def run(args: argparse.Namespace) -> int:
    """0, unless --check asks for more. Raises XenhelperError for a VM that isn't there."""
    if args.watch and (args.json or args.check):
        raise UsageError("--watch goes with neither --json nor --check")

    def look() -> dict[str, Any]:
        return judge.status(read.world(), args.vm or None)

    if args.watch:
        live.watch(look)
        return EXIT_DONE
    answer = look()
    missing = set(args.vm) - {vm["name"] for vm in answer["vms"]}
    print(_json(answer) if args.json else text.render(answer, live.colour()))
    if missing:
        raise XenhelperError(
            f"{', '.join(sorted(missing))}: not replicated on this host", "`xenhelper status` lists all"
        )
    return judge.exit_code(answer) if args.check else EXIT_DONE


def _json(answer: dict[str, Any]) -> str:
    """One object, with a line for each VM, intent and problem: json's own indenting does
    without its C encoder, which was half of the time with many VMs."""
    parts = []
    for key, value in answer.items():
        if isinstance(value, list) and value:
            value = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        else:
            value = json.dumps(value)
        parts.append(f" {json.dumps(key)}: {value}")
    return "{\n" + ",\n".join(parts) + "\n}"
