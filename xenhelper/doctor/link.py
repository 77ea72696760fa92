"""The replication link: MTU and speed at both ends."""

from xenhelper.doctor.finding import ERROR, HINT, WARNING, Finding
from xenhelper.doctor.pair import Pair


def check(pair: Pair) -> list[Finding]:
    """Findings of the link between both."""
    found = []
    for facts in pair.both:
        if facts.link and not facts.link.get("device"):
            found.append(
                Finding(
                    ERROR,
                    facts.host,
                    None,
                    f"{facts.host}: no device has its replication address {facts.link.get('address')}",
                    "`ip address`; correct the address in /etc/xenhelper/xenhelper.conf or on the device",
                )
            )
        elif 0 < int(facts.link.get("speed") or 0) < 1000:
            found.append(
                Finding(
                    HINT,
                    facts.host,
                    None,
                    f"{facts.host}: the replication link {facts.link['device']} runs at "
                    f"{facts.link['speed']} Mbit/s",
                    "a gigabit or more: `ethtool` tells what was negotiated",
                )
            )
    if pair.there is None:
        return found
    here, there = pair.here.link, pair.there.link
    for key, label, unit in (("mtu", "MTU", ""), ("speed", "speed", " Mbit/s")):
        mine, theirs = int(here.get(key) or 0), int(there.get(key) or 0)
        if mine and theirs and mine != theirs:
            found.append(
                Finding(
                    WARNING,
                    None,
                    None,
                    f"the replication link's {label} differs: {mine}{unit} on {pair.here.host} "
                    f"({here.get('device')}), {theirs}{unit} on {pair.there.host} ({there.get('device')})",
                    f"`ip link set {there.get('device')} mtu {mine}` on {pair.there.host}, or the other way; "
                    "keep it in its network configuration"
                    if key == "mtu"
                    else "`ethtool` on both: cable, port or setting",
                )
            )
    return found
