"""``xenhelper alert``: what is raised now; ``--test`` sends a message by every channel."""

import argparse
import os
import time

from xenhelper import alerts, config
from xenhelper.errors import EXIT_DONE, EXIT_FAILED, ConfigError

HELP = "alerts that are raised now; --test sends one by every channel"
EXAMPLES = """\
  xenhelper alert                      # what is raised now
  xenhelper alert --test --dry-run     # where would a message go?
  xenhelper alert --test
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument("--test", action="store_true", help="send a test message by every channel")
    parser.add_argument("--dry-run", action="store_true", help="with --test: only say where it would go")


def run(args: argparse.Namespace) -> int:
    """0; for a test 1 when a channel fails or there is none."""
    if args.test:
        return _test(args.dry_run)
    raised = alerts.active()
    for record in raised:
        print(f"{record['severity']}: {record['what']}\n  since {record['since']}")
        if record.get("do"):
            print(f"  do: {record['do']}")
    if not raised:
        print("no alert is raised on this host")
    return EXIT_DONE


def _test(dry_run: bool) -> int:
    from xenhelper.alerts import channels, sender

    settings = config.load().alerts
    names = channels.configured(settings)
    if not names:
        raise ConfigError(
            "no channel in [alerts] can be used on this host",
            "give one: see xenhelper.conf(5); local mail needs a mail server's sendmail",
        )
    if dry_run:
        for name in names:
            print(f"{name}: to {channels.module(name).where(settings)}")
        return EXIT_DONE
    failed = False
    for name, why in sender.test(settings, os.uname().nodename, time.time()).items():
        where = channels.module(name).where(settings)
        print(f"{name}: failed, {why}" if why else f"{name}: sent to {where}")
        failed = failed or bool(why)
    return EXIT_FAILED if failed else EXIT_DONE
