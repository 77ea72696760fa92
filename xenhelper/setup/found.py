"""What setup found on two hosts, in a few lines for whoever decides on it. Pure."""

from xenhelper.setup import decide
from xenhelper.setup.decide import Facts, Link, Pairing

_KINDS = ("pvh", "hvm", "pv")


def lines(pairing: Pairing, here: Facts, there: Facts) -> list[tuple[str, str]]:
    """(what, its line): versions, both paths, volume groups, which guests migrate."""
    versions = [_versions(facts) for facts in (here, there)]
    if versions[0] == versions[1]:
        found = [("both", versions[0])]
    else:
        found = [(pairing.host, versions[0]), (pairing.peer, versions[1])]
    found.append(("management", _path(pairing.management, here, there)))
    found.append(("replication", _path(pairing.replication, here, there)))
    found += [
        ("replicated", f"{pairing.host}:{ours} - {pairing.peer}:{theirs}")
        for ours, theirs in pairing.groups.items()
    ]
    return found + _migrates(here, there)


def _versions(facts: Facts) -> str:
    drbd = facts.get("drbd") or "not loaded"
    return (
        f"xenhelper {facts['version']}, Xen {facts.get('xen') or 'not running'}, "
        f"Linux {facts.get('kernel') or 'unknown'}, DRBD {drbd}"
    )


def _path(link: Link, here: Facts, there: Facts) -> str:
    """Both addresses, and what both ends say of the way between them."""
    ends = decide.ends(link, here, there)
    more = ["no default route over it" if not any(end.get("default") for end in ends) else "a shared network"]
    mtus, speeds = [[int(end[key]) for end in ends if end.get(key)] for key in ("mtu", "speed")]
    if mtus:
        more.append(f"MTU {min(mtus)}")
    if speeds:
        more.append(f"{min(speeds)} Mbit/s")
    return f"{link.here} - {link.there} ({', '.join(more)})"


def _migrates(here: Facts, there: Facts) -> list[tuple[str, str]]:
    """Which kinds of guest go from either to the other; nothing where Xen didn't say."""
    reasons: dict[str, str] = {}
    for facts in (here, there):
        cannot = facts.get("cannot_migrate")
        if cannot is None:
            return []
        for kind, why in cannot.items():
            reasons.setdefault(kind, f"{facts['host']}: {why}")
    able = [kind.upper() for kind in _KINDS if kind not in reasons]
    said = [f"{', '.join(able)} guests"] if able else []
    said += [f"not {kind.upper()} ({reasons[kind]})" for kind in _KINDS if kind in reasons]
    return [("migrates", "; ".join(said))]
