"""``xenhelper watch``, run by xenhelper-watch.service."""

import argparse

from xenhelper.watch import daemon

HELP = "follow replicated disks and domains, raise alerts (the service does this)"
EXAMPLES = """\
  systemctl status xenhelper-watch     # the service that runs this
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Until it is stopped."""
    return daemon.serve()
