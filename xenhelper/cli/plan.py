"""``xenhelper plan CFG``: what ``xl create CFG`` would set up; changes nothing."""

import argparse
import os

from xenhelper import consider, create, numbers, policy, units
from xenhelper.errors import EXIT_DONE, XenhelperError

HELP = "show what `xl create` would replicate for a VM's config"
EXAMPLES = """\
  xenhelper plan /etc/xen/web1.cfg
  xenhelper plan /etc/xen/web1.cfg memory=512
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, settings as for xl, and another peer than the configured one."""
    parser.add_argument("config", metavar="CFG", help="the VM's config file")
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", help="settings as after `xl create CFG`")
    parser.add_argument("--peer", default="", metavar="HOST", help="the host that takes the copies")


def run(args: argparse.Namespace) -> int:
    """Print the plan. Raises what the create itself would be refused with."""
    return show(args.config, args.settings, args.peer)


def show(config: str, settings: list[str], peer: str, libvirt: bool = False) -> int:
    """Consider, check and print; the same for ``replicate --dry-run``. ``libvirt``: ``config``
    is the name of a domain that is defined there."""
    try:
        if libvirt:
            from xenhelper.virt import adopt

            request = adopt.request(config, peer)[0]
        else:
            request = create.request_for(os.path.realpath(config), settings, peer)
        found = consider.consider(request)
        there = consider.look(found) if found.replicated else None
        said: dict[str, str] = {}
        if there is not None:
            consider.check(found, there)
            if found.fresh:
                said = consider.words(found, consider.places(found, there))
        slots = {slot.vdev: slot for slot in numbers.preview(found)} if found.fresh else {}
    except XenhelperError as error:
        create.show_details(error)
        raise
    print(f"VM {found.request.vm}" + (f", replicated with {found.peer}" if found.peer else ""))
    for item in found.decisions:
        slot = slots.get(item.vdev)
        if slot is not None and item.volume is not None:
            print(
                f"  {item.vdev:6} {item.path}: becomes resource {slot.resource}, minor {slot.minor}, "
                f"port {slot.port}; first sync {units.size(item.volume.size)}"
                + (f"; {said[item.vdev]}" if item.vdev in said else "")
            )
        elif item.action == policy.REPLICATE:
            print(f"  {item.vdev:6} {item.path}: is resource {item.resource} already")
        else:
            print(f"  {item.vdev:6} {item.path or '-'}: left alone, {item.reason}")
    if there is not None and there.missing:
        print(f"  {found.peer} lacks {', '.join(there.missing)}: the VM couldn't run there")
    if not found.fresh:
        print("nothing is to be set up")
    return EXIT_DONE
