"""From the facts of two hosts to what each of them should have. Pure."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xenhelper import names
from xenhelper.errors import ConfigError, Refused, UsageError, XenhelperError
from xenhelper.setup import obstacles

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Link:
    """A pair of addresses, one on each host."""

    here: str
    there: str


@dataclass(frozen=True)
class Shared:
    """A subnet on which both hosts have an address."""

    link: Link
    network: str
    default: bool


@dataclass(frozen=True)
class Wishes:
    """What the command line says; empty means: find out."""

    management: Link | None = None
    replication: Link | None = None
    volume_groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairing:
    """What becomes of the two hosts. ``groups``: name here -> name there."""

    host: str
    peer: str
    management: Link
    replication: Link
    groups: Mapping[str, str]
    ssh_port: int
    warnings: tuple[str, ...]

    def changes_here(self) -> dict[str, Any]:
        """For config.render on this host."""
        return _changes(self.host, self.peer, self.management, self.replication, self.groups, self.ssh_port)

    def changes_there(self) -> dict[str, Any]:
        """For config.render on the peer. Its way back to us uses our sshd's standard port."""
        turned = {there: here for here, there in self.groups.items()}
        back = [Link(link.there, link.here) for link in (self.management, self.replication)]
        return _changes(self.peer, self.host, back[0], back[1], turned, 22)


def _changes(
    host: str, peer: str, management: Link, replication: Link, groups: Mapping[str, str], port: int
) -> dict[str, Any]:
    section: dict[str, Any] = {"management": management.there, "replication": replication.there}
    if port != 22:
        section["ssh_port"] = str(port)
    return {
        "host": {"name": host, "management": management.here, "replication": replication.here},
        "peers": {peer: {**section, "volume_groups": dict(groups)}},
        "replicate": {"volume_groups": list(groups)},
    }


def check_hosts(here: Facts, there: Facts, peer: str) -> None:
    """Refuse a pair that can't be one, before anything is changed. Raises XenhelperError."""
    if here["host"] == there["host"]:
        raise UsageError(f"{peer} is this host, or has the same name {here['host']}", "name the other host")
    for facts in (here, there):
        if not names.valid_host(facts["host"]):
            raise Refused(
                f"{facts['host']!r} as a host's name (`uname -n`) can't stand in DRBD's files", "rename it"
            )
        if facts["shim"] == "foreign":
            raise Refused(
                f"{facts['host']}: /usr/local/sbin/xl is there and isn't xenhelper's",
                "move it away; xenhelper puts a link of its own there",
            )
    if here["version"] != there["version"]:
        raise XenhelperError(
            f"{here['host']} has xenhelper {here['version']}, {there['host']} has {there['version']}",
            "install the same package on both",
        )


def shared_networks(here: Facts, there: Facts) -> list[Shared]:
    """Subnets with an address of each host: direct links first, then the smaller ones.

    An address that both have (a bridge for guests, behind NAT) leads to oneself.
    """
    ours = {item["address"] for item in here["addresses"]}
    found = [
        Shared(Link(a["address"], b["address"]), a["network"], bool(a["default"] or b["default"]))
        for a in here["addresses"]
        for b in there["addresses"]
        if a["network"] == b["network"] and b["address"] not in ours
    ]
    size = {item.network: ipaddress.ip_network(item.network).num_addresses for item in found}
    return sorted(found, key=lambda item: (item.default, size[item.network], item.link.here, item.link.there))


def links(
    here: Facts, there: Facts, wishes: Wishes, known: Mapping[str, Any]
) -> tuple[Link, Link, list[str]]:
    """(management, replication, warnings). ``known`` is the present configuration, whose
    choice stands as long as the addresses exist. Raises UsageError."""
    shared = shared_networks(here, there)
    both = {item["address"] for item in here["addresses"]}, {item["address"] for item in there["addresses"]}
    for name, wish in (("--management", wishes.management), ("--replication", wishes.replication)):
        if wish is not None and (wish.here not in both[0] or wish.there not in both[1]):
            raise UsageError(
                f"{name} {wish.here},{wish.there}: not addresses of {here['host']} and {there['host']}",
                f"here: {', '.join(sorted(both[0]))}; there: {', '.join(sorted(both[1]))}",
            )
    old_management, old_replication = _known_links(known, there["host"], both)
    seen = there.get("seen_as") or []
    ssh = Link(seen[0], seen[1]) if len(seen) == 2 and seen[0] in both[0] and seen[1] in both[1] else None

    replication = wishes.replication or old_replication
    if replication is None:
        direct = [item.link for item in shared if not item.default]
        other = [link for link in direct if link != (wishes.management or ssh)]
        replication = next(iter(other or direct or [item.link for item in shared]), None)
    management = wishes.management or old_management
    if management is None:
        # the way ssh went, unless that is the replication link and there is another
        spare = [item.link for item in reversed(shared) if item.link != replication]
        if ssh is not None and (ssh != replication or not spare):
            management = ssh
        else:
            management = next(iter(spare), replication)
    if management is None or replication is None:
        raise UsageError(
            f"{here['host']} and {there['host']} have no IPv4 subnet in common",
            "name addresses: --management LOCAL,REMOTE --replication LOCAL,REMOTE",
        )
    warnings = []
    if management == replication:
        warnings.append(
            f"management and replication both go from {replication.here} to {replication.there}: when that "
            "link is lost, neither host can ask the other, and a VM starts only with `xenhelper takeover`"
        )
    return management, replication, warnings


def _known_links(
    known: Mapping[str, Any], peer: str, both: tuple[set[str], set[str]]
) -> tuple[Link | None, Link | None]:
    host, section = known.get("host", {}), known.get("peers", {}).get(peer, {})
    found: list[Link | None] = []
    for key in ("management", "replication"):
        ours = (section.get("local_replication") if key == "replication" else "") or host.get(key, "")
        theirs = section.get(key, "")
        found.append(Link(ours, theirs) if ours in both[0] and theirs in both[1] else None)
    return found[0], found[1]


def common_groups(here: Facts, there: Facts) -> list[str]:
    """Volume groups of the same name on both that hold neither dom0."""
    roots = {here.get("root_group"), there.get("root_group")}
    return [
        name for name in sorted(here["volume_groups"]) if name in there["volume_groups"] and name not in roots
    ]


def check_groups(here: Facts, there: Facts, groups: Mapping[str, str]) -> None:
    """Raises ConfigError unless each group exists where it should and serves once."""
    for ours, theirs in groups.items():
        for name, facts in ((ours, here), (theirs, there)):
            if name not in facts["volume_groups"]:
                raise ConfigError(
                    f"{facts['host']} has no volume group {name}",
                    "it has: " + (", ".join(sorted(facts["volume_groups"])) or "none"),
                )
    if len(set(groups.values())) != len(groups):
        raise ConfigError("two volume groups here can't go into one there", "name another")
    if not groups:
        raise ConfigError(
            f"no volume group is there by the same name on both: {_list(here)}; {_list(there)}",
            "name a pair with --volume-group LOCAL=PEER",
        )


def _list(facts: Facts) -> str:
    root = facts.get("root_group")
    shown = [f"{name} (holds dom0)" if name == root else name for name in sorted(facts["volume_groups"])]
    return f"{facts['host']} has " + (", ".join(shown) or "none")


def groups_of(known: Mapping[str, Any], peer: str) -> dict[str, str]:
    """The mapping that the present configuration has for this peer."""
    return dict(known.get("peers", {}).get(peer, {}).get("volume_groups", {}))


def ends(link: Link, here: Facts, there: Facts) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both hosts say of the devices that have ``link``'s addresses; {} where none has."""

    def of(facts: Facts, address: str) -> dict[str, Any]:
        return next((item for item in facts["addresses"] if item["address"] == address), {})

    return of(here, link.here), of(there, link.there)


def pairing(
    here: Facts,
    there: Facts,
    wishes: Wishes,
    known: Mapping[str, Any],
    groups: Mapping[str, str],
    ssh_port: int,
    more: Sequence[str] = (),
) -> Pairing:
    """Everything together. Raises XenhelperError."""
    check_groups(here, there, groups)
    management, replication, warnings = links(here, there, wishes, known)
    ours, theirs = ends(replication, here, there)
    warnings += obstacles.of_link(ours, theirs, (here["host"], there["host"]))
    if here.get("drbd", "")[:2] != there.get("drbd", "")[:2] and here.get("drbd") and there.get("drbd"):
        warnings.append(
            f"DRBD is {here['drbd']} on {here['host']} and {there['drbd']} on {there['host']}: untested"
        )
    return Pairing(
        host=here["host"],
        peer=there["host"],
        management=management,
        replication=replication,
        groups=groups,
        ssh_port=ssh_port,
        warnings=(*here["warnings"], *there["warnings"], *warnings, *more),
    )
