"""``xenhelper status``: replicated VMs, where they run, how their disks are."""

import argparse
import json

from xenhelper.errors import EXIT_DONE, XenhelperError
from xenhelper.status import judge, read, text

HELP = "replicated VMs by name: where they run, how their disks are, what to look at"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument("vm", nargs="*", metavar="VM", help="only these VMs")
    parser.add_argument("--json", action="store_true", help="for programs; the format is a contract")
    parser.add_argument("--check", action="store_true", help="exit 4 when degraded, 5 when broken")


def run(args: argparse.Namespace) -> int:
    """0, unless --check asks for more. Raises XenhelperError for a VM that isn't there."""
    answer = judge.status(read.world(), args.vm or None)
    missing = set(args.vm) - {vm["name"] for vm in answer["vms"]}
    print(json.dumps(answer, indent=1) if args.json else text.render(answer))
    if missing:
        raise XenhelperError(
            f"{', '.join(sorted(missing))}: not replicated on this host", "`xenhelper status` lists all"
        )
    return judge.exit_code(answer) if args.check else EXIT_DONE
