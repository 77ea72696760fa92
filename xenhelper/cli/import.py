"""``xenhelper import``: a VM that is off comes here from a server without xenhelper."""

import argparse
import shlex

from xenhelper import create, names, volumes
from xenhelper.errors import EXIT_DONE, UsageError, XenhelperError
from xenhelper.importing import far, find, plan, story

HELP = "copy a VM that is off from a server without xenhelper, then replicate it"
EXAMPLES = """\
  xenhelper import root@old1 --vm web1 --dry-run
  xenhelper import root@old1 --vm web1 --limit 50M --bridge eth0=xenbr0
  xenhelper import root@old1:/etc/xen/web1.cfg
  xenhelper import root@old1:/dev/vg0/web1-disk /dev/vg0/web1-swap
  xenhelper import --undo web1         # give up one that isn't finished
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument(
        "source",
        metavar="[root@]HOST[:PATH]",
        nargs="*",
        help="the old server, and there the VM's config, or all its volumes or raw images "
        "(later ones without HOST:)",
    )
    parser.add_argument("--vm", default="", metavar="NAME", help="the VM, by its config in /etc/xen there")
    parser.add_argument(
        "--volume-group", default="", metavar="VG", help="the volume group here for its disks"
    )
    parser.add_argument("--peer", default="", metavar="HOST", help="the host that takes the copies")
    parser.add_argument(
        "--bridge", action="append", default=[], metavar="OLD=NEW", help="a bridge's name there and here"
    )
    parser.add_argument("--limit", default="", metavar="SPEED", help="bytes a second at most: 50M; K, M or G")
    parser.add_argument("--undo", default="", metavar="VM", help="give up an import that isn't finished")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def run(args: argparse.Namespace) -> int:
    """0 when the VM is here and replicated (its first sync runs)."""
    would = "would: " if args.dry_run else ""
    if args.undo:
        for line in story.undo(args.undo, args.dry_run):
            print(would + line)
        return EXIT_DONE
    try:
        story.run(_wish(args), lambda line: print(would + line, flush=True), args.dry_run)
    except XenhelperError as error:
        create.show_details(error)
        raise
    return EXIT_DONE


def _wish(args: argparse.Namespace) -> find.Wish:
    if not args.source:
        raise UsageError("which server isn't said", "xenhelper import root@HOST --vm NAME")
    host, found = "", []
    for word in args.source:
        mine, path = far.split(word) if not word.startswith("/") else (host, far.check_path(word))
        if not mine or (host and mine != host):
            raise UsageError(f"{word[:120]!r} is on another server, or on none", "one server at a time")
        host = mine
        found += [path] if path else []
    if args.vm:
        names.check_vm(args.vm)
    if args.volume_group and not volumes.valid_name(args.volume_group):
        raise UsageError(f"{args.volume_group[:120]!r} can't be a volume group's name")
    if args.peer and not names.valid_host(args.peer):
        raise UsageError(f"{args.peer[:80]!r} is no host")
    return find.Wish(
        host,
        tuple(found),
        args.vm,
        args.volume_group,
        args.peer,
        plan.bridges(args.bridge),
        plan.limit(args.limit),
        shlex.join(["xenhelper", "import", *args.source, *_options(args)]),
    )


def _options(args: argparse.Namespace) -> list[str]:
    """The options as typed, but for those of one run only."""
    found = []
    for option in ("vm", "volume_group", "peer", "limit"):
        if getattr(args, option):
            found += [f"--{option.replace('_', '-')}", getattr(args, option)]
    for word in args.bridge:
        found += ["--bridge", word]
    return found
