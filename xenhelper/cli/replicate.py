"""``xenhelper replicate CFG``: what ``xl create`` does before it starts the VM, and no more."""

import argparse
import os

from xenhelper import create, intents, names, replicate, rewrite, vmfile
from xenhelper.cli import plan
from xenhelper.errors import EXIT_DONE, UsageError, XenhelperError

HELP = "replicate a VM's disks without starting it"
EXAMPLES = """\
  xenhelper replicate /etc/xen/web1.cfg --dry-run
  xenhelper replicate /etc/xen/web1.cfg --peer bob
  xenhelper replicate --libvirt web1              # a domain that libvirt has defined
  xenhelper replicate web1 --from-peer --dry-run  # this host's volumes were lost
  xenhelper replicate web1 --peer carol --dry-run # its second copy moves to carol
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, peer, dry run."""
    parser.add_argument(
        "config",
        metavar="CFG",
        help="the VM's config file, or, with --libvirt or replicated already, its name",
    )
    parser.add_argument(
        "--peer",
        default="",
        metavar="HOST",
        help="the host that takes the copies; of a VM that is replicated, the second copy moves there",
    )
    parser.add_argument(
        "--from-peer",
        action="store_true",
        help="this host's half was lost: make it anew, with the data from the other host",
    )
    parser.add_argument(
        "--libvirt", action="store_true", help="a stopped domain of xen:///system, and its definition there"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def run(args: argparse.Namespace) -> int:
    """Do it; the first sync goes on in the background."""
    if args.from_peer:
        if args.libvirt:
            raise UsageError("--from-peer makes the disks anew: --libvirt is for another time")
        return _from_peer(args)
    if args.peer and (vm := _replicated(args.config, args.peer)):
        return _move(vm, args)
    if args.dry_run:
        return plan.show(args.config, [], args.peer, args.libvirt)
    try:
        if args.libvirt:
            from xenhelper.virt import adopt

            outcome = adopt.run_for(args.config, args.peer)
        else:
            outcome = replicate.run(create.request_for(os.path.realpath(args.config), [], args.peer))
    except XenhelperError as error:
        create.show_details(error)
        raise
    for item in outcome.found.decisions:
        if item not in outcome.found.replicated:
            print(f"{item.vdev}: left alone, {item.reason}")
    if not outcome.found.replicated:
        rewrite.drop_block(outcome.found)
    for disk in outcome.fresh:
        print(f"{disk.vdev}: replicated with {outcome.found.peer} as {disk.resource}, first sync runs")
    if not outcome.fresh:
        print("nothing was to be set up")
    return EXIT_DONE


def _replicated(typed: str, peer: str) -> str:
    """The VM whose second copy is to move to ``peer``; '' when this is about a config's disks."""
    if not os.path.exists(typed):
        return typed if names.valid_vm(typed) and "/" not in typed else ""
    vm = vmfile.owner(os.path.realpath(typed))
    if not vm:
        return ""
    from xenhelper import replace

    half = intents.read("replace", vm) is not None
    return vm if half or replace.old_peer(vm) not in ("", peer) else ""


def _move(vm: str, args: argparse.Namespace) -> int:
    from xenhelper import replace

    try:
        lines = replace.run(vm, args.peer, args.dry_run)
    except XenhelperError as error:
        create.show_details(error)
        raise
    for line in lines:
        print(("would " if args.dry_run else "") + line)
    return EXIT_DONE


def _from_peer(args: argparse.Namespace) -> int:
    from xenhelper import rejoin

    if args.peer:
        raise UsageError("--from-peer goes by what the other host knows: name no --peer")
    vm = args.config
    if os.path.exists(vm) or not names.valid_vm(vm):
        vm = create.request_for(os.path.realpath(vm), []).vm
    for line in rejoin.run(vm, args.dry_run):
        print(line)
    return EXIT_DONE
