"""``xenhelper alert-send``, run by xenhelper-alert.service: tell every channel, for ever."""

import argparse

from xenhelper.alerts import sender
from xenhelper.alerts.bell import Bell
from xenhelper.errors import EXIT_DONE

HELP = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Until it is stopped."""
    sender.Sender().run(Bell().wait)
    return EXIT_DONE
