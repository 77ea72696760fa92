"""``xenhelper alert-send``, run by xenhelper-alert.service: tell every channel, then end."""

import argparse

from xenhelper.alerts import sender
from xenhelper.errors import EXIT_DONE

HELP = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """0 once all is told."""
    sender.Sender().run()
    return EXIT_DONE
