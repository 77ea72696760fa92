"""xl 4.20 but for what makes and moves domains (toolstack.py), our shim, and virsh."""

import json
from typing import Any

from tests.sim.kernel import Output

XL = "/usr/lib/xen-4.20/bin/xl"
SHIM = "/usr/lib/xenhelper/xl"


def xl(process: Any, argv: "list[str]") -> Output:
    host = process.host
    command, rest = argv[1], argv[2:]
    if command == "list":
        return xl_list(host, rest)
    if command == "info":
        free = 4096 - sum(128 for _ in host.domains)
        return (
            0,
            (
                f"host                   : {host.name}\nvirt_caps              : pv hvm hap\n"
                f"free_memory            : {free}\nxen_commandline        : dom0_mem=768M,max:768M\n"
            ),
            "",
        )
    if command == "destroy":
        found = host.find(rest[0])
        if found is None:
            return 1, "", f"{rest[0]} is an invalid domain identifier (rc=-6)\n"
        from tests.sim import toolstack

        toolstack.destroy(process, found)
        return 0, "", ""
    if command in ("pause", "unpause", "resume"):
        found = host.find(rest[0])
        if found is None:
            return 1, "", f"{rest[0]} is an invalid domain identifier (rc=-6)\n"
        getattr(found, f"xl_{command}")()
        return 0, "", ""
    if command == "migrate" and host.find(rest[0]) is None:
        return 1, "", f"{rest[0]} is an invalid domain identifier (rc=-6)\n"
    if command == "create" and "--dryrun" in rest:
        return 1, "", "not simulated\n"
    raise AssertionError(f"xl {command} isn't simulated")


def xl_list(host: Any, rest: "list[str]") -> Output:
    listed = sorted(host.domains.values(), key=lambda domain: domain.domid)
    if rest[:1] == ["-v"]:
        text = "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID" + (
            "                            Reason-Code\tSecurity Label\n"
            "Domain-0                                     0   768     1     r-----     125.8 "
            "00000000-0000-0000-0000-000000000000        -                -\n"
        )
        for domain in listed:
            text += (
                f"{domain.name:<40} {domain.domid:>5}   128     1     {domain.flags}      18.8 {domain.uuid}"
            )
            text += "        -                -\n"
        return 0, text, ""
    if rest[:1] == ["-l"]:
        wanted = [host.find(rest[1])] if len(rest) > 1 else listed
        if None in wanted:
            return 1, "", f"{rest[1]} is an invalid domain identifier (rc=-6)\n"
        return 0, json.dumps([domain.describe() for domain in wanted if domain is not None]), ""
    raise AssertionError(f"xl list {rest} isn't simulated")


def shim(process: Any, argv: "list[str]") -> Output:
    """Our own xl, as the reconciler starts it: ``create --quiet --defconfig CONFIG``."""
    from tests.sim import toolstack

    vm = argv[-1].rsplit("/", 1)[-1].removesuffix(".cfg")
    status = toolstack.create(process, vm)
    return status, "", "" if status == 0 else "xl create failed\n"


def virsh(process: Any, argv: "list[str]") -> Output:
    """``virsh -c URI start VM``, as the reconciler has it."""
    from tests.sim import toolstack

    status = toolstack.create(process, argv[-1])
    return status, "", "" if status == 0 else "error: Failed to start domain\n"
