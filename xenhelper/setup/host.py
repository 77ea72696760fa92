"""What one host has that pairing must know; plain JSON, since it travels."""

import ipaddress
import json
import os
import shutil
from typing import Any

from xenhelper import paths
from xenhelper.errors import CommandFailed, XenhelperError
from xenhelper.run import run
from xenhelper.setup import obstacles

SHIM = "/usr/local/sbin/xl"
SHIM_TARGET = paths.LIBEXEC + "/xl"
HOST_KEYS = paths.ROOT + "/etc/ssh"


def facts() -> dict[str, Any]:
    """Name, versions, addresses, volume groups, ssh's host keys, present configuration,
    and ``warnings``: what an administrator should know."""
    from xenhelper.peer import about

    return {
        **about.versions(),
        "addresses": addresses(),
        "seen_as": _seen_as(),
        "volume_groups": volume_groups(),
        "root_group": root_group(),
        "host_keys": host_keys(),
        "shim": shim_state(),
        "conf": _text(paths.CONFIG),
        "warnings": warnings(),
        "cannot_migrate": _cannot_migrate(),
    }


def _cannot_migrate() -> "dict[str, str] | None":
    """destination.cannot_migrate; None where Xen doesn't say (it isn't running, say)."""
    from xenhelper import destination

    try:
        return destination.cannot_migrate()
    except XenhelperError:
        return None


def addresses() -> list[dict[str, Any]]:
    """Each IPv4 address: ``device``, ``address``, ``network`` (CIDR), ``default`` (whether its
    device leads to a default route), and the device's ``mtu`` and ``speed``."""
    ways = json.loads(run(["ip", "-json", "-4", "route", "show", "default"], timeout=5).stdout or "[]")
    default = {way.get("dev") for way in ways}
    links = json.loads(run(["ip", "-json", "-4", "address", "show"], timeout=5).stdout or "[]")
    return [{**item, **obstacles.link(item["device"])} for item in parse_addresses(links, default)]


def parse_addresses(links: list[dict[str, Any]], default: set[Any]) -> list[dict[str, Any]]:
    """From ``ip -json address``; loopback and /32 are no link to a peer."""
    found = []
    for link in links:
        for info in link.get("addr_info", []):
            if info.get("family") != "inet" or info.get("scope") == "host" or info.get("prefixlen", 32) > 31:
                continue
            network = ipaddress.ip_interface(f"{info['local']}/{info['prefixlen']}").network
            found.append(
                {
                    "device": link["ifname"],
                    "address": info["local"],
                    "network": str(network),
                    "default": link["ifname"] in default,
                }
            )
    return found


def _seen_as() -> list[str]:
    """[asker's address, our address] of the ssh connection that we were called over."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return [words[0], words[2]] if len(words) == 4 else []


def volume_groups() -> dict[str, dict[str, int]]:
    """``size`` and ``free`` bytes of each group."""
    from xenhelper import volumes

    fields = "vg_name,vg_size,vg_free,vg_extent_size"
    argv = ["vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields]
    groups = volumes.parse_groups(run(argv, timeout=30).stdout)
    return {name: {"size": group.size, "free": group.free} for name, group in groups.items()}


def root_group() -> str:
    """The volume group that holds dom0's /, or ''."""
    try:
        source = run(["findmnt", "--noheadings", "--output", "SOURCE", "/"], timeout=5).stdout.strip()
        if not source.startswith("/dev/"):
            return ""
        return run(
            ["lvs", "--noheadings", "--options", "vg_name", source.split("[")[0]], timeout=10
        ).stdout.strip()
    except CommandFailed:
        return ""


def host_keys() -> list[str]:
    """The public host keys of this host's sshd, ``type base64`` each."""
    found = []
    for name in sorted(os.listdir(HOST_KEYS)) if os.path.isdir(HOST_KEYS) else []:
        if name.startswith("ssh_host_") and name.endswith("_key.pub"):
            words = _text(f"{HOST_KEYS}/{name}").split()
            if len(words) >= 2:
                found.append(" ".join(words[:2]))
    return found


def shim_state() -> str:
    """``ours``, ``missing`` or ``foreign``: what stands at /usr/local/sbin/xl."""
    path = paths.ROOT + SHIM
    if os.path.islink(path) and os.readlink(path) == SHIM_TARGET:
        return "ours"
    return "foreign" if os.path.lexists(path) else "missing"


def warnings() -> list[str]:
    """Things that setup leaves alone but that somebody should look at."""
    found = []
    name = os.uname().nodename
    if "." in name:
        found.append(f"{name}: `uname -n` has dots; DRBD's files use it as it is, so never change it")
    common = _text(paths.DRBD_D + "/global_common.conf")
    if any(line.split("#")[0].split() == ["usage-count", "yes;"] for line in common.splitlines()):
        found.append(
            f"{name}: /etc/drbd.d/global_common.conf has `usage-count yes`: drbdadm asks a server "
            "on the Internet at each new resource; `usage-count no;` spares that"
        )
    if not os.path.exists(paths.ROOT + "/proc/xen/capabilities"):
        found.append(f"{name}: runs without Xen now; boot its Xen entry before the first `xl create`")
    first = shutil.which("xl", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if first == "/usr/local/bin/xl":
        found.append(f"{name}: /usr/local/bin/xl is found by whoever has that folder first in PATH")
    return found + obstacles.warnings(name)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
