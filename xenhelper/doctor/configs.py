"""VM configs in /etc/xen: disks beneath DRBD, and what keeps a guest from starting or moving.

Read as text: xl's own reading costs most of a second a file, and the questions here are
whether certain words stand in a file. The last ``disk`` of a config counts (facts), which is
our block where there is one.
"""

import os
import re
from typing import Any

from xenhelper import paths
from xenhelper.doctor.finding import HINT, WARNING, Finding
from xenhelper.doctor.pair import Pair
from xenhelper.errors import XenhelperError
from xenhelper.setup import obstacles
from xenhelper.xen import vmconfig

FOLDERS = ("/etc/xen", "/etc/xen/auto")
_KEYMAPS = ("/usr/share/qemu/keymaps", "/usr/share/qemu-xen/qemu/keymaps", "/usr/share/xen/qemu/keymaps")
_SETTING = r"^\s*{}\s*=\s*[\"']?([^\"'#\n]+)"
_NOT_CONFIGS = (".conf", ".dpkg-old", ".dpkg-new", ".dpkg-dist", "~", ".bak", ".orig")


def look(records: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
    """Path -> ``name``, ``direct`` (replicated volumes that it names as its disks), ``ours``
    (whether our block ends it), ``by_hand`` (whether it has disks for block-drbd), and what
    :func:`_oddities` finds."""
    volumes = sorted({record[key] for record in records.values() for key in ("volume",) if key in record})
    found: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    for folder in FOLDERS:
        for name in sorted(_listed(paths.ROOT + folder)):
            path = f"{folder}/{name}"
            real = os.path.realpath(paths.ROOT + path)
            if real in seen or name.endswith(_NOT_CONFIGS) or not os.path.isfile(real):
                continue
            seen.add(real)
            try:
                text = vmconfig.read_file(path)
            except (OSError, XenhelperError):
                continue
            if re.search(_SETTING.format("name"), text, re.M):
                found[path] = judge(text, volumes)
    return found


def _listed(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return []


def judge(text: str, volumes: list[str]) -> dict[str, Any]:
    """One config's text. ``volumes``: paths of replicated volumes (/dev/VG/LV)."""
    try:
        _, block = vmconfig.split(text)
        ours = block is not None
    except XenhelperError:
        ours = True  # a block edited by hand: create says so, with what to do
    plain = "\n".join(line.split("#")[0] for line in text.splitlines())
    direct = [] if ours else [volume for volume in volumes if _named(volume, plain)]
    name = re.search(_SETTING.format("name"), plain, re.M)
    by_hand = obstacles.names_by_hand(text)
    told = {"ours": ours, "direct": direct, "by_hand": by_hand}
    return {"name": name[1].strip() if name else "", **told, **_oddities(plain)}


def _named(volume: str, text: str) -> bool:
    """Whether a disk in ``text`` is this volume, by either of its names (dmsetup(8))."""
    _, _, group, name = volume.split("/")
    mapper = "/dev/mapper/" + group.replace("-", "--") + "-" + name.replace("-", "--")
    return any(re.search(re.escape(path) + r"(?![\w.+/-])", text) for path in (volume, mapper))


def _oddities(text: str) -> dict[str, Any]:
    loader = re.search(_SETTING.format("bootloader"), text, re.M)
    path = loader[1].strip() if loader else ""
    gone = path.startswith("/") and not os.path.exists(paths.ROOT + path)
    kind = re.search(_SETTING.format("(?:type|builder)"), text, re.M)
    keymap = re.search(_SETTING.format("keymap"), text, re.M)
    return {
        "loader_gone": path if gone else "",
        "windows": bool(re.search(r"^\s*viridian\s*=\s*(?![\s0])", text, re.M)),
        "keymap_gone": bool(
            keymap
            and kind
            and kind[1].strip() == "hvm"
            and not any(os.path.isdir(paths.ROOT + folder) for folder in _KEYMAPS)
        ),
    }


def check(pair: Pair) -> list[Finding]:
    """Findings of both hosts' configs."""
    found = []
    for facts in pair.both:
        host = facts.host
        for path, config in sorted(facts.configs.items()):
            vm = str(config.get("name") or "") or None

            def add(severity: str, what: str, do: str, vm: str | None = vm, host: str = host) -> None:
                found.append(Finding(severity, host, vm, f"{host}: {what}", do))

            for volume in config.get("direct", []):
                add(
                    WARNING,
                    f"{path} has {volume} itself as a disk, which DRBD replicates: a start past xenhelper's "
                    "xl would write beneath DRBD",
                    f"`xl create {path}` puts that right, or remove the file",
                )
            if config.get("by_hand"):
                add(
                    HINT,
                    f"{path} has disks that were replicated by hand for block-drbd",
                    f"with the VM shut down, `xenhelper convert {path}` takes them over, their data as it is",
                )
            if config.get("loader_gone"):
                add(
                    WARNING,
                    f"{path}: bootloader {config['loader_gone']} isn't there (of another release?)",
                    'write `bootloader = "pygrub"`: xl finds it',
                )
            if config.get("keymap_gone"):
                add(HINT, f"{path} names a keymap, and QEMU has none here", "`apt install qemu-system-data`")
            if config.get("windows") and config.get("ours"):
                add(
                    HINT,
                    f"{path} looks like Windows: with fast start-up it hibernates instead of shutting down, "
                    "and without PV drivers its disks are emulated",
                    "in the guest: `powercfg -h off`, and install the Xen PV drivers",
                )
    return found
