"""What both hosts must hold alike: resource files, VM configs, records."""

from xenhelper.doctor.finding import ERROR, WARNING, Finding
from xenhelper.doctor.pair import Pair

_SAME = ("vm", "vdev", "minor", "port", "protocol")


def check(pair: Pair) -> list[Finding]:
    """Findings of how both differ; nothing without the peer's facts."""
    if pair.there is None:
        return []
    here, there = pair.here, pair.there
    found = []
    shared = {name: r for name, r in here.records.items() if r.get("peer") == there.host}
    vms = {f"/etc/drbd.d/{r.get('vm')}.res": r.get("vm") for r in shared.values()}
    for path in sorted(set(here.files) & set(there.files)):
        mine, theirs = here.files[path], there.files[path]
        if mine == theirs:
            continue
        missing = here.host if not mine else there.host if not theirs else ""
        good = there.host if missing == here.host else here.host
        if path.endswith(".res") and missing:
            do = f"`xenhelper reconcile` on {missing} writes it anew"
        elif path.endswith(".res"):
            do = f"`scp -p root@{good}:{path} {path}` on the other, then `xenhelper reconcile` there"
        elif missing:
            do = f"`scp -p root@{good}:{path} {path}` on {missing}"
        else:
            do = "the next `xl create` shows the difference, and says which side counts"
        what = f"{path} is missing on {missing}" if missing else f"{path} differs between both hosts"
        found.append(Finding(ERROR if path.endswith(".res") else WARNING, None, vms.get(path), what, do))
    for name, mine_ in sorted(shared.items()):
        theirs_ = there.records.get(name)
        if theirs_ is None:
            found.append(_lone(name, mine_, here.host, there.host))
            continue
        differs = [key for key in _SAME if mine_.get(key) != theirs_.get(key)]
        if differs:
            found.append(
                Finding(
                    ERROR,
                    None,
                    mine_.get("vm"),
                    f"{name}: both hosts' records differ in {', '.join(differs)}",
                    f"compare /var/lib/xenhelper/resources/{name} on both; its .res file is right",
                )
            )
    for name, record in sorted(there.records.items()):
        if record.get("peer") == here.host and name not in here.records:
            found.append(_lone(name, record, there.host, here.host))
    return found


def _lone(name: str, record: "dict[str, str]", knows: str, not_: str) -> Finding:
    vm = record.get("vm") or None
    return Finding(
        ERROR,
        not_,
        vm,
        f"{name} is known on {knows} and not on {not_}",
        f"if {vm} isn't to be replicated any more: `xenhelper forget {vm}` on {knows}; else "
        f"`xenhelper reconcile --from-volumes` on {not_}",
    )
