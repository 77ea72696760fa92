"""drbdadm and drbdmeta, and the files that drbdadm reads."""

import re
from pathlib import Path
from typing import Any

from .drbdlink import kernel, linked
from .state import HOST, ROOT, die, load, lvm


def resources(path: Path) -> dict[str, dict[str, Any]]:
    """What a file, ours or made by hand, holds for this host."""
    found = {}
    text = path.read_text()
    for part in re.split(r"^resource ", text, flags=re.M)[1:]:
        name = re.match(r'"?([\w+-]+)"? {', part)
        mine = re.search(rf'on "?{HOST}"? {{(.*?)}}', part, re.S)
        other = next((o for o in re.findall(r'on "?(\w+)"? {(.*?)}', part, re.S) if o[0] != HOST), ("", ""))
        assert name and mine, part

        def word(pattern: str, where: str, default: str = "") -> str:
            match = re.search(pattern, where)
            return match[1] if match else default

        found[name[1]] = {
            "minor": int(word(r"minor (\d+);", part)),
            "secret": word(r'shared-secret "([^"]+)"', part),
            "volume": word(r'\bdisk "?([^";]+)"?;', mine[1]),
            "meta": word(r'meta-disk "?([^";]+)"?;', mine[1]),
            "port": int(word(r"address (?:ipv4 )?[\d.]+:(\d+);", mine[1])),
            "address": word(r"address (?:ipv4 )?([\d.]+):", mine[1]),
            "remote": word(r"address (?:ipv4 )?([\d.]+):", other[1]),
            "protocol": word(r"protocol (\w);", part, "C"),
            "dual": word(r"allow-two-primaries (\w+);", part, "no"),
            "fencing": word(r"fencing ([\w-]+);", part, "dont-care"),
        }
        if "rs-discard-granularity" in part:
            found[name[1]]["thin"] = int(word(r"rs-discard-granularity (\d+);", part, "0"))
    return found


def everything() -> dict[str, dict[str, Any]]:
    """What drbdadm reads without -c."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "etc/drbd.d").glob("*.res")):
        for name, item in resources(path).items():
            if name in found:
                die(f"conflicting use of resource {name}", 10)
            found[name] = item
    return found


def drbdadm(args: list[str]) -> None:
    if args[0] == "--config-to-test":
        for other in sorted((ROOT / "etc/drbd.d").glob("*.res")):
            if "bogus" in other.read_text():
                die(f"drbd.d/{other.name}:1: Parse error: but got 'bogus' (TK 282)", 10)
        if "bogus" in Path(args[1]).read_text():
            die(f"{args[1]}:1: Parse error: but got 'bogus' (TK 282)", 10)
        resources(Path(args[1]))
        return
    if args[0] == "adjust":
        return adjust(everything(), args[1])
    assert args[0] == "-c", args
    known = resources(Path(args[1]))
    if args[2] == "sh-nop":
        return
    if args[2] == "adjust":
        return adjust(known, args[3])
    assert args[2] == "up", args
    state = load("drbd.json", {})
    mine = state.setdefault(HOST, {})
    for name in args[3:]:
        item = known[name]
        if any(other["minor"] == item["minor"] or other["port"] == item["port"] for other in mine.values()):
            die(f"{name}: minor or port exists", 10)
        for volume in (item["volume"], item["meta"]):
            if volume.removeprefix("/dev/") not in lvm()["volumes"]:
                die(f"open({volume}) failed", 10)
        stamp = (ROOT / item["meta"].lstrip("/")).read_bytes()[:8]
        if not stamp.startswith(b"drbd"):
            die("No valid meta data found", 10)
        item["size"] = lvm()["volumes"][item["volume"].removeprefix("/dev/")]["size"]
        mine[name] = {**item, "role": "Secondary", "disk": stamp[4:].decode().rstrip("\0") or "Inconsistent"}
        mine[name]["disk"] = "UpToDate" if mine[name]["disk"] == "good" else "Inconsistent"
    kernel(state)


def adjust(known: dict[str, dict[str, Any]], name: str) -> None:
    """The running resource takes what its file says; its disk and metadata are the same."""
    if name not in known:
        die(f"'{name}' not defined in your config (for this host).", 10)
    state = load("drbd.json", {})
    mine = state.setdefault(HOST, {})
    wanted = known[name]
    if name not in mine:
        die(f"{name}: the fakes bring nothing up by adjust", 10)
    for key in ("minor", "volume", "meta"):
        assert mine[name][key] == wanted[key], f"{name}: {key} would be attached anew"
    assert not (wanted["protocol"] == "A" and wanted["dual"] == "yes")
    mine[name].update(wanted)
    mine[name].pop("alone", None)
    peer = linked(state, HOST, name)
    if peer:  # P_PROTOCOL_UPDATE
        peer.update(protocol=wanted["protocol"], dual=wanted["dual"])
    kernel(state)


def drbdmeta(args: list[str]) -> None:
    assert args[0] == "--force" and args[2] == "v08" and args[4:] == ["flex-external", "create-md"], args
    path = ROOT / args[3].lstrip("/")
    if not path.exists():
        die(f"open({args[3]}) failed: No such file or directory", 20)
    assert path.read_bytes()[: 1 << 20].strip(b"\0") == b"", "metadata volume wasn't zeroed"
    with path.open("r+b") as file:
        file.write(b"drbd\0\0\0\0")
