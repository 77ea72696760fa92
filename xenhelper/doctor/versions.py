"""Both hosts' versions: what must be alike, and what must be there."""

from xenhelper.doctor.finding import ERROR, HINT, WARNING, Finding
from xenhelper.doctor.pair import Pair
from xenhelper.drbd import proc

_CLOCK = 2.0  # seconds


def check(pair: Pair) -> list[Finding]:
    """Findings of both hosts, and of how they differ."""
    found = []
    for facts in pair.both:
        host, versions = facts.host, facts.versions
        if not versions.get("xen"):
            found.append(Finding(ERROR, host, None, f"{host} runs without Xen", "boot its Xen entry"))
        if not versions.get("drbd"):
            found.append(
                Finding(ERROR, host, None, f"{host}: the drbd module isn't loaded", "`modprobe drbd`")
            )
        elif not versions["drbd"].startswith(proc.TESTED + "."):
            found.append(
                Finding(
                    WARNING,
                    host,
                    None,
                    f"{host}: DRBD {versions['drbd']} isn't tested; {proc.TESTED} is",
                    "boot Debian's own kernel",
                )
            )
    if pair.there is None:
        return found
    here, there = pair.here.versions, pair.there.versions
    names = (pair.here.host, pair.there.host)
    for key, label, severity, do in (
        ("version", "xenhelper", ERROR, "install the same package on both"),
        ("drbd", "DRBD", WARNING, "boot the same kernel on both"),
        ("xen", "Xen", WARNING, "a guest moves to the newer, not always back: upgrade the other, too"),
        ("kernel", "the kernel", HINT, "upgrade and reboot the other, too"),
    ):
        if here.get(key) and there.get(key) and here[key] != there[key]:
            what = f"{label} differs: {here[key]} on {names[0]}, {there[key]} on {names[1]}"
            found.append(Finding(severity, None, None, what, do))
    if pair.offset is not None and abs(pair.offset) > _CLOCK:
        ahead, behind = names if pair.offset < 0 else names[::-1]
        found.append(
            Finding(
                WARNING,
                None,
                None,
                f"{ahead}'s clock is {abs(pair.offset):.0f} s ahead of {behind}'s: times in logs and "
                "records lie",
                "`timedatectl set-ntp true` on both",
            )
        )
    return found
