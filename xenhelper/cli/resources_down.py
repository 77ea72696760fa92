"""``xenhelper resources-down``, by xenhelper-resources.service when the host shuts down."""

import argparse

from xenhelper import boot
from xenhelper.errors import EXIT_DONE

HELP = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Always 0: a shutdown isn't held up."""
    for line in boot.stop():
        print(line)
    return EXIT_DONE
