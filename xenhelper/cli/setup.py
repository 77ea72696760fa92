"""``xenhelper setup PEER``: pair this host with another, from here."""

import argparse
import sys
from typing import Any

from xenhelper import __version__
from xenhelper.errors import EXIT_DONE, UsageError, XenhelperError
from xenhelper.setup import decide, found, half
from xenhelper.setup.remote import NotInstalled, Remote

HELP = "pair this host with PEER: configuration, key, hooks and units on both"
EXAMPLES = """\
  xenhelper setup bob --dry-run        # say what would change on both hosts
  xenhelper setup bob                  # ask which volume groups are replicated
  xenhelper setup bob --package ./xenhelper_0.1.0_all.deb
  xenhelper setup bob --yes --replication 10.99.0.1,10.99.0.2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument("peer", metavar="PEER", help="the other host, as root's ssh here reaches it")
    parser.add_argument(
        "--yes", action="store_true", help="take every volume group that both have, but dom0's"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would change, change nothing")
    parser.add_argument(
        "--volume-group",
        action="append",
        default=[],
        metavar="LOCAL[=PEER]",
        help="replicate this volume group (into PEER's of that name); may be given again",
    )
    parser.add_argument(
        "--package", metavar="DEB", help="install this xenhelper package on PEER if it has none"
    )
    parser.add_argument("--replication", metavar="LOCAL,REMOTE", help="addresses of the replication link")
    parser.add_argument("--management", metavar="LOCAL,REMOTE", help="addresses of the other path")


def run(args: argparse.Namespace) -> int:
    """0 when both hosts are paired and reach each other. Raises XenhelperError."""
    wishes = decide.Wishes(_link(args.management), _link(args.replication), _groups(args.volume_group))
    remote = Remote(args.peer)
    here, there = half.handle({"op": "facts"}), _facts_there(remote, args)
    decide.check_hosts(here, there, args.peer)
    known = half.present()
    groups = _choose_groups(args, wishes, here, there, known)
    pairing = decide.pairing(here, there, wishes, known, groups, remote.port)
    _show(pairing, here, there)
    changed = _carry_out(pairing, here, there, remote, args.dry_run)
    for line in changed:
        print(f"  {'would ' if args.dry_run else ''}{line}")
    if not changed:
        print("nothing to change")
    if args.dry_run:
        return EXIT_DONE
    checked = [half.handle({"op": "check", "peer": pairing.peer, "ssh_to": pairing.peer})]
    request = {"op": "check", "peer": pairing.host, "ssh_to": pairing.host}
    checked.append(remote.handle(request, timeout=120))
    for answer in checked:
        for warning in answer["warnings"]:
            print(f"  warning: {warning}")
    print(f"{pairing.host} and {pairing.peer} (xenhelper {__version__}) reach each other")
    if changed:
        _tell_sizes(remote)
    return EXIT_DONE


def _facts_there(remote: Remote, args: argparse.Namespace) -> dict[str, Any]:
    try:
        return remote.handle({"op": "facts"})
    except NotInstalled as error:
        if not args.package:
            raise NotInstalled(error.what, f"add --package FILE.deb here, or {error.do}") from None
        if args.dry_run:
            raise NotInstalled(error.what, f"without --dry-run {args.package} is installed there") from None
    print(f"installing {args.package} on {args.peer}")
    remote.install(args.package)
    return remote.handle({"op": "facts"})


def _link(text: str | None) -> decide.Link | None:
    if text is None:
        return None
    here, comma, there = (part.strip() for part in text.partition(","))
    if not comma or not here or not there:
        raise UsageError(f"{text!r} isn't LOCAL,REMOTE", "as in --replication 10.99.0.1,10.99.0.2")
    return decide.Link(here, there)


def _groups(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        here, _, there = text.partition("=")
        found[here] = there or here
    return found


def _choose_groups(
    args: argparse.Namespace,
    wishes: decide.Wishes,
    here: dict[str, Any],
    there: dict[str, Any],
    known: dict[str, Any],
) -> dict[str, str]:
    """What is configured stays; what is named is added; only a first pairing asks."""
    groups = {**decide.groups_of(known, there["host"]), **wishes.volume_groups}
    if groups:
        return groups
    offered = decide.common_groups(here, there)
    if args.yes:
        return {name: name for name in offered}
    if offered and not sys.stdin.isatty():
        raise UsageError(
            f"which volume groups are replicated isn't said (both have {', '.join(offered)})",
            "add --yes for all of them, or --volume-group LOCAL=PEER",
        )
    return {name: name for name in offered if _asked(name, here, there)}


def _asked(name: str, here: dict[str, Any], there: dict[str, Any]) -> bool:
    free = [facts["volume_groups"][name]["free"] / 1024**3 for facts in (here, there)]
    question = (
        f"Replicate the volumes of {name} ({free[0]:.1f} GiB free on {here['host']}, "
        f"{free[1]:.1f} GiB on {there['host']})? [Y/n] "
    )
    return input(question).strip().lower() in ("", "y", "yes")


def _show(pairing: decide.Pairing, here: dict[str, Any], there: dict[str, Any]) -> None:
    print(f"{pairing.host} and {pairing.peer}")
    for name, said in found.lines(pairing, here, there):
        print(f"  {name:<12} {said}")
    for warning in pairing.warnings:
        print(f"  warning: {warning}")


def _carry_out(
    pairing: decide.Pairing, here: dict[str, Any], there: dict[str, Any], remote: Remote, dry_run: bool
) -> list[str]:
    """Keys on both first, since each half needs the other's. What was changed, by host."""
    changed: list[str] = []

    def note(host: str, answer: dict[str, Any]) -> dict[str, Any]:
        changed.extend(f"{host}: {line}" for line in answer["changed"])
        return answer

    key: dict[str, Any] = {"op": "key", "dry_run": dry_run}
    ours, theirs = note(pairing.host, half.handle(key)), note(pairing.peer, remote.handle(key))
    apply_there = {
        "op": "apply",
        "dry_run": dry_run,
        "peer": pairing.host,
        "conf": pairing.changes_there(),
        "public": ours["public"],
        "host_keys": here["host_keys"],
    }
    apply_here = {
        "op": "apply",
        "dry_run": dry_run,
        "peer": pairing.peer,
        "conf": pairing.changes_here(),
        "public": theirs["public"],
        "host_keys": there["host_keys"],
    }
    # the peer first: when it can't, this host is as it was
    note(pairing.peer, remote.handle(apply_there, timeout=700))
    note(pairing.host, half.handle(apply_here))
    return changed


def _tell_sizes(remote: Remote) -> None:
    for handle in (half.handle, lambda request: remote.handle(request, timeout=180)):
        try:
            lines = handle({"op": "sizes"})["lines"]
        except XenhelperError as error:
            lines = [f"what the next creates will sync isn't known: {error}"]
        for line in lines:
            print(line)
