"""What belongs to nothing: volumes with our tags, resource files and kernel resources without
a record; records without the volume, the file or the kernel's resource that they name."""

from xenhelper.doctor.finding import ERROR, WARNING, Finding
from xenhelper.doctor.pair import Pair


def check(pair: Pair) -> list[Finding]:
    """Findings of both hosts."""
    found: list[Finding] = []
    # a create or forget that is under way has volumes without records, on either host
    changing = any(facts.changing for facts in pair.both)
    for facts in pair.both:
        host, records = facts.host, facts.records
        unread = {line.partition(":")[0] for line in facts.unread}

        def add(
            severity: str, vm: str | None, what: str, do: str, host: str = host, to: list[Finding] = found
        ) -> None:
            to.append(Finding(severity, host, vm, f"{host}: {what}", do))

        for path, resource in sorted(facts.tagged.items()):
            if resource not in records and not changing:
                add(
                    WARNING,
                    None,
                    f"{path} bears xenhelper's tag of {resource}, which isn't replicated here",
                    f"if nobody misses it: `lvremove {path}`; to keep it: `lvchange --deltag "
                    f"xenhelper.resource={resource} {path}`",
                )
        listed = {name for named in facts.res_files.values() for name in named}
        for vm, named in sorted(facts.res_files.items()):
            for name in named:
                if name not in records:
                    add(
                        WARNING,
                        vm,
                        f"/etc/drbd.d/{vm}.res has {name}, of which there is no record",
                        f"`xenhelper reconcile`; if it stays and {vm} isn't replicated: `drbdadm down {name}`"
                        ", then remove it from the file",
                    )
        for name, record in sorted(records.items()):
            owner = record.get("vm") or None
            if "up" not in unread and name not in facts.up:
                add(
                    ERROR,
                    owner,
                    f"resource {name} isn't up",
                    "`xenhelper resources-up`; it says why if it can't",
                )
            if "res_files" not in unread and name not in listed:
                add(
                    ERROR,
                    owner,
                    f"{name} has no resource file",
                    "`xenhelper reconcile` writes it anew",
                )
            if "tagged" not in unread:
                for key in ("volume", "meta"):
                    if record.get(key, "").startswith("/") and record[key] not in facts.tagged:
                        add(
                            WARNING,
                            owner,
                            f"{record[key]} of {name} isn't there, or lacks xenhelper's tags",
                            f"`lvs -o+tags {record[key]}`; `lvchange --addtag xenhelper.resource={name}`",
                        )
        for name in sorted(set(facts.up) - set(records)):
            if any(name in named for named in facts.res_files.values()):
                continue  # told with its file
            if name in facts.tagged.values():
                add(
                    WARNING,
                    None,
                    f"the kernel has {name} (minor {facts.up[name]}), of which there is no record",
                    f"`drbdsetup down {name}` if no VM uses it",
                )
    return found
