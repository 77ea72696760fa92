"""The old server's config, fitted to this host: paths of disks, bridges, pygrub.

Each change is made in the text as it stands, and proven by xl's own reading of before and
after; where the text can't be changed so (an image that was served in another way), a
``disk`` assignment at its end takes the old one's place.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from xenhelper import paths
from xenhelper.errors import Refused
from xenhelper.importing.plan import Plan
from xenhelper.xen import vmconfig
from xenhelper.xen.vmconfig import Parsed

_BOOTLOADER = re.compile(r"""(\bbootloader\s*=\s*["'])(/[^"'\n]*/pygrub)(["'])""")


def mended(
    xl: str, text: str, parsed: Parsed, plan: Plan, bridges: Mapping[str, str]
) -> tuple[str, Parsed, list[str]]:
    """(the text for this host, xl's reading of it, what was changed beside the disks).

    Raises Refused when no change of the text comes to what is meant.
    """
    text, kept = _lines_ended(text), text
    loader = _BOOTLOADER.search(text)
    pygrub = loader[2] if loader and not os.path.exists(paths.ROOT + loader[2]) else ""
    words = {"bridge": dict(bridges), "bootloader": {pygrub: "pygrub"} if pygrub else {}}
    for old, new in bridges.items():
        text = re.sub(rf"(\bbridge\s*=\s*){re.escape(old)}(?![\w.-])", rf"\g<1>{new}", text)
    if pygrub:
        text = _BOOTLOADER.sub(
            lambda found: f"{found[1]}pygrub{found[3]}" if found[2] == pygrub else found[0], text
        )
    moved = text
    for item in plan.items:
        moved = re.sub(rf"(?<![\w./+-]){re.escape(item.source)}(?![\w./+-])", item.path, moved)
    why = ""
    for candidate in (moved, _appended(text, parsed, plan)):
        try:
            with vmconfig.Scratch(candidate) as path:
                after = vmconfig.dry_run(xl, path)
        except vmconfig.DryRunFailed as error:
            why = why or error.what
            continue
        wrong = difference(parsed, after, plan, words)
        if not wrong:
            return (
                (kept if candidate == _lines_ended(kept) else candidate),
                after,
                notes(parsed, bridges, pygrub),
            )
        why = wrong
    raise Refused(
        f"{plan.vm}: its config can't be fitted to this host without changing {why}",
        f"change {plan.origin} on {plan.host} so that xl reads it as it is meant",
    )


def _lines_ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _appended(text: str, parsed: Parsed, plan: Plan) -> str:
    targets = {item.vdev: item.path for item in plan.items}
    specs = []
    for disk in parsed.disks:
        path = targets.get(str(disk.get("vdev")))
        specs.append(vmconfig.spec(_here(disk, path) if path else disk))
    return (
        f"{text}\n# The disks as they came from {plan.host}; this takes the place of the lines above.\n"
        f"disk = {vmconfig.disk_list(specs)}\n"
    )


def _here(disk: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The same disk on a volume of this host."""
    new = {key: value for key, value in disk.items() if key not in ("backend", "format")}
    return {**new, "pdev_path": path}


def difference(before: Parsed, after: Parsed, plan: Plan, words: Mapping[str, Mapping[str, str]]) -> str:
    """'' if xl reads ``after`` as ``before`` with the plan's disks and ``words`` (by key, old ->
    new) exchanged, else what differs (pure)."""
    if vmconfig.rest(_mapped(before.tree, words)) != vmconfig.rest(after.tree):
        return "something besides the disks"
    targets = {item.vdev: item.path for item in plan.items}
    if len(before.disks) != len(after.disks):
        return "the number of disks"
    for old, new in zip(before.disks, after.disks, strict=True):
        vdev = str(old.get("vdev"))
        if vdev not in targets:
            if old != new:
                return f"disk {vdev}, which isn't copied"
            continue
        how = str(new.get("backend", "unknown")), str(new.get("format", "raw"))
        if new.get("pdev_path") != targets[vdev] or how[0] not in ("unknown", "phy") or how[1] != "raw":
            return f"disk {vdev}: not on {targets[vdev]}"
        changed = ("pdev_path", "backend", "format")
        if {k: v for k, v in old.items() if k not in changed} != {
            k: v for k, v in new.items() if k not in changed
        }:
            return f"another attribute of disk {vdev}"
    return ""


def _mapped(value: Any, words: Mapping[str, Mapping[str, str]], key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _mapped(item, words, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, words, key) for item in value]
    return words.get(key, {}).get(value, value) if isinstance(value, str) else value


def notes(parsed: Parsed, bridges: Mapping[str, str], pygrub: str) -> list[str]:
    """What is changed beside the disks, a line each."""
    found = [f"bridge {old} becomes {new}" for old, new in bridges.items() if old in parsed.bridges]
    return found + ([f"bootloader {pygrub} becomes pygrub, which xl finds by itself"] if pygrub else [])


def missing(parsed: Parsed, host: str) -> list[str]:
    """What the (mended) config names and this host lacks, with what to do, a line each."""
    vm, found = parsed.name, []
    for name in parsed.bridges:
        if _uses_script(parsed, name) or os.path.isdir(f"{paths.ROOT}/sys/class/net/{name}/bridge"):
            continue
        found.append(f"{vm}: this host has no bridge {name}: make it, or --bridge {name}=NAME ({_have()})")
    for path in [*parsed.files, *_loaders(parsed), *_discs(parsed)]:
        if not os.path.exists(paths.ROOT + path):
            found.append(f"{vm}: this host has no {path}: bring it over, here and to its peer, from {host}")
    return found


def _uses_script(parsed: Parsed, bridge: str) -> bool:
    """Whether another script than vif-bridge, which is for Linux's own, serves it."""
    nics = [nic for nic in parsed.tree.get("nics", []) if nic.get("bridge") == bridge]
    return all(str(nic.get("script") or "vif-bridge").rsplit("/", 1)[-1] != "vif-bridge" for nic in nics)


def _have() -> str:
    try:
        found = os.listdir(paths.ROOT + "/sys/class/net")
    except OSError:
        found = []
    have = [name for name in sorted(found) if os.path.isdir(f"{paths.ROOT}/sys/class/net/{name}/bridge")]
    return "here: " + (", ".join(have) or "none")


def _loaders(parsed: Parsed) -> list[str]:
    info = parsed.tree.get("b_info", {})
    found = [info, *(value for value in info.values() if isinstance(value, dict))]
    keys = ("bootloader", "firmware", "device_model_override")
    words = [str(item.get(key) or "") for item in found for key in keys]
    return [word for word in words if word.startswith("/")]


def _discs(parsed: Parsed) -> list[str]:
    words = [str(disk.get("pdev_path") or "") for disk in parsed.disks if disk.get("is_cdrom")]
    return [word for word in words if word.startswith("/")]
