"""Running guests: those that can't move, and those beneath DRBD. Images made for new ones."""

from xenhelper.doctor.finding import ERROR, HINT, Finding
from xenhelper.doctor.pair import Pair


def check(pair: Pair) -> list[Finding]:
    """Findings of both hosts."""
    found = []
    for facts in pair.both:
        host = facts.host
        for domain in facts.domains:
            why = facts.cannot_migrate.get(domain.get("kind", ""))
            if why and domain.get("replicated") == "True":
                found.append(
                    Finding(
                        HINT,
                        host,
                        domain["name"],
                        f"{host}: {domain['name']} is a {domain['kind'].upper()} guest and can't be "
                        f"migrated: {why}",
                        'type="pvh" in its config if its kernel can; a cold move (shut down, create there) '
                        "always works",
                    )
                )
        for vm, what, do in facts.beneath:
            found.append(Finding(ERROR, host, vm, f"{host}: {what}", do))
        for path in facts.skeletons:
            found.append(
                Finding(
                    HINT,
                    host,
                    None,
                    f"{host}: {path} gives new images a security source that Debian hasn't had since 11",
                    "in it, write RELEASE-security for RELEASE/updates",
                )
            )
    return found
