"""``xenhelper resources-up``, for xenhelper-resources.service."""

import argparse
import sys

from xenhelper import boot
from xenhelper.errors import EXIT_DONE, EXIT_FAILED

HELP = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """0 when every managed resource is up."""
    failed = boot.resources_up()
    for line in failed:
        print(line, file=sys.stderr)
    return EXIT_FAILED if failed else EXIT_DONE
