"""What the tests ask of the product on the hosts, through its contract only."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .guest import Guest
from .host import Host, Result
from .lab import Lab
from .wait import wait_until as wait_until

MIGRATE_TIMEOUT = 420.0


def status(host: Host, *vms: str) -> dict[str, Any]:
    """``xenhelper status --json``."""
    answer: dict[str, Any] = json.loads(host.run(f"xenhelper status --json {' '.join(vms)}").out)
    return answer


def vm(host: Host, name: str) -> dict[str, Any]:
    """One VM of it."""
    found = [entry for entry in status(host, name)["vms"] if entry["name"] == name]
    assert len(found) == 1, found
    return dict(found[0])


@dataclass(frozen=True)
class Net:
    """What a resource runs with on one host."""

    protocol: str
    two_primaries: bool


def net(host: Host, resource: str) -> Net:
    """From drbdsetup, not from the product: the product is what is tested."""
    return net_of(host.run(f"drbdsetup show {resource}").out)


def net_of(text: str) -> Net:
    """From what ``drbdsetup show`` of one resource printed."""
    protocol = re.search(r"^\s*protocol\s+(\w);", text, re.M)
    return Net(protocol.group(1) if protocol else "C", bool(re.search(r"allow-two-primaries\s+yes", text)))


def ends(host: Host, resource: str) -> str:
    """Both addresses, as drbdsetup takes them."""
    text = host.out(f"drbdsetup show {resource}")
    ends = [
        re.search(rf"{side} \{{\s*address\s+ipv4 ([\d.]+:\d+)", text)
        for side in ("_this_host", "_remote_host")
    ]
    assert all(ends), text
    return " ".join(f"ipv4:{end.group(1)}" for end in ends if end)


def roles(host: Host) -> dict[int, str]:
    """Minor -> "Primary/Secondary" and so on, from /proc/drbd."""
    return {int(m): r for m, r in re.findall(r"^\s*(\d+): cs:\S+ ro:(\S+)", host.read("/proc/drbd"), re.M)}


def minor(host: Host, resource: str) -> int:
    """The resource's minor, from the kernel."""
    found = re.search(r"minor:(\d+)", host.run(f"drbdsetup events2 --now {resource}").out)
    assert found, resource
    return int(found.group(1))


def assert_steady(lab: Lab, resources: list[str], primary: Host | None, hosts: Sequence[Host] = ()) -> None:
    """On both hosts: protocol A, two-primaries no, and Primary just where it should be."""
    for host in hosts or lab.hosts:
        for resource in resources:
            assert net(host, resource) == Net("A", False), f"{resource} on {host.name}"
            role = roles(host)[minor(host, resource)].split("/")[0]
            assert role == ("Primary" if host is primary else "Secondary"), (
                f"{resource} on {host.name}: {role}"
            )
        left = host.run("ls /var/lib/xenhelper/intents 2>/dev/null", check=False).out.split()
        assert left == [], f"intents left on {host.name}"


def runs_on(lab: Lab, name: str) -> list[str]:
    """The hosts on which a domain of this name exists, under any of its three names."""
    pattern = f"^({re.escape(name)}|{re.escape(name)}--incoming|{re.escape(name)}--migratedaway) "
    return [host.name for host in lab.hosts if re.search(pattern, host.run("xl list").out, re.M)]


def assert_no_wrong_block(guest: Guest, *hosts: Host) -> None:
    """No wrong block and no failed write was ever printed, on any of these hosts."""
    for host in hosts:
        assert guest.on(host).wrong_lines() == [], host.name


def migrate(source: Host, target: str, name: str = "web1", xl: str = "xl", check: bool = True) -> Result:
    """``xl migrate``. What it printed is in the result, and in the exception."""
    return source.run(f"{xl} migrate {name} {target}", MIGRATE_TIMEOUT, check=check)


def real_xl(host: Host) -> str:
    """Xen's own xl, past the shim."""
    return host.out("ls -d /usr/lib/xen-*/bin/xl")


def refused(host: Host, command: str, *words: str, timeout: float = 120, status: int | None = None) -> Result:
    """The command fails, says one line of ours, and each of ``words`` is in it."""
    result = host.run(command, timeout, check=False)
    output = result.err + result.out
    assert result.status != 0, f"{command!r} on {host.name} exited 0\n{output}"
    if status is not None:
        assert result.status == status, f"{command!r} exited {result.status}, not {status}\n{output}"
    ours = [line for line in output.splitlines() if "xenhelper: " in line]
    assert ours, f"no line of xenhelper's in:\n{output}"
    for word in words:
        assert any(word in line for line in ours), f"{word!r} not in:\n{output}"
    assert "Traceback" not in output
    return result


def picture(lab: Lab) -> str:
    """What exists on both hosts: what a refused command must leave as it was."""
    parts = []
    for host in lab.hosts:
        parts.append(
            f"== {host.name}\n"
            + host.run(
                "lvs --noheadings -o vg_name,lv_name,lv_size,lv_tags; "
                "ls -l --time-style=+ /etc/drbd.d /etc/xen; "
                "sha256sum /etc/drbd.d/* /etc/xen/*.cfg 2>/dev/null; grep -c . /proc/drbd; "
                "find /var/lib/xenhelper -type f | sort; xl list | cut -c1-40",
                check=False,
            ).out
        )
    return re.sub(r"\s+\d+\s+r-----|\s+\d+\.\d+$", "", "\n".join(parts), flags=re.M)


def checksum(host: Host, volume: str, start_mib: int, count_mib: int) -> str:
    """sha256 of a part of a volume, read past every cache."""
    return host.out(
        f"dd if={volume} bs=1M skip={start_mib} count={count_mib} iflag=direct status=none | sha256sum"
    )


def wait_in_sync(host: Host, *resources: str, timeout: float = 300) -> None:
    """Until these are Connected and UpToDate on both sides, by this host's kernel."""

    def synced() -> bool:
        text = host.run("drbdsetup events2 --now").out
        return all(
            re.search(rf"connection name:{r} .*connection:Connected", text)
            and re.search(rf"device name:{r} .*disk:UpToDate", text)
            and re.search(rf"peer-device name:{r} .*peer-disk:UpToDate", text)
            for r in resources
        )

    wait_until(synced, timeout, f"{', '.join(resources)} in sync", every=1)


def detach(host: Host, name: str, vdev: str, timeout: float = 180) -> None:
    """``xl block-detach`` by the real xl, until the disk is gone.

    libxl gives the guest ten seconds to let go (LIBXL_DESTROY_TIMEOUT); an emulated guest may
    need more, most of all for a disk that it has just got. What it lets go later stays listed
    until it is detached again.
    """

    real = real_xl(host)

    def gone() -> bool:
        done = host.run(f"{real} block-detach {name} {vdev}", timeout=60, check=False)
        return done.ok or "not connected" in done.err

    wait_until(gone, timeout, f"{name} to let go of {vdev}")


def wait_gone(host: Host, name: str, timeout: float = 60) -> None:
    """Until no domain of this name is left on the host."""
    wait_until(
        lambda: not host.run(f"xl domid '{name}'", check=False).ok, timeout, f"{name} to go", every=0.5
    )


class PermissionWatch:
    """Samples on the source: was two-primaries ever allowed while the guest still ran?

    Where the permission is seen, the domain's state is looked at next: from the grant to
    the end of a migration that succeeds, no look may find the guest running here. Sparse,
    since each look costs the host, which has one processor, the time of the migration.
    """

    def __init__(self, host: Host, name: str, resource: str) -> None:
        self.host = host
        self._command = (
            f"while :; do if drbdsetup show {resource} | grep -q 'allow-two-primaries.*yes'; "
            f"then echo yes $(xl list {name} 2>/dev/null | awk 'NR==2{{print $5}}'); "
            "else echo no; fi; sleep 1.2; done"
        )
        self.samples: list[list[str]] = []

    def __enter__(self) -> PermissionWatch:
        self._process = self.host.start(self._command)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        out, _ = self._process.communicate(timeout=30)
        self.samples = [line.split() for line in out.decode().splitlines() if line]

    @property
    def violations(self) -> list[list[str]]:
        """Samples in which the guest ran with the permission given."""
        return [s for s in self.samples if s[0] == "yes" and len(s) == 2 and s[1][3:4] != "s"]
