"""``xenhelper removal``, by the package before it goes: every VM gets its plain disks back."""

import argparse
import sys

from xenhelper import removal
from xenhelper.errors import EXIT_DONE

HELP = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """0 when the package can go. Raises Refused when a VM would be left half way."""
    done, failed = removal.run()
    for line in done:
        print(line, flush=True)
    for line in failed:
        print(f"xenhelper: {line}", file=sys.stderr)
    if failed:
        raise removal.blocked(failed)
    return EXIT_DONE
