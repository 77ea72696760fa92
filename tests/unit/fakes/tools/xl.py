"""``xl create --dryrun``: what xl makes of a config."""

import json
import os
import re
from pathlib import Path
from typing import Any

from .state import die


def xl(args: list[str]) -> None:
    assert args[:3] == ["create", "--dryrun", "--quiet"] and args[3] == "--defconfig" and args[5] == "--", (
        args
    )
    scope: dict[str, Any] = {}
    if not Path(args[4]).exists():
        die(f"Failed to read config file: {args[4]}: No such file or directory", 3)
    text = Path(args[4]).read_text() if args[4] != "/dev/null" else ""
    try:
        exec(text + "\n" + "\n".join(args[6:]) + "\n", scope)
    except SyntaxError as error:
        die(f"{args[4]}: config parsing error: {error}", 1)
    if "name" not in scope:
        die("Domain name must be specified.", 1)
    tree: dict[str, Any] = {"c_info": {"type": "pvh", "name": scope["name"], "uuid": os.urandom(16).hex()}}
    tree["b_info"] = {
        "max_memkb": scope.get("memory", 128) * 1024,
        "kernel": scope.get("kernel", "/boot/vmlinuz"),
    }
    tree["disks"] = [disk(spec) for spec in scope.get("disk", [])]
    if "bootloader" in scope:
        tree["b_info"]["bootloader"] = scope["bootloader"]
    bridges = [re.search(r"bridge=([\w.-]+)", vif) for vif in scope.get("vif", ["bridge=xenbr0"])]
    tree["nics"] = [{"devid": at, "bridge": found[1]} for at, found in enumerate(bridges) if found]
    print(json.dumps(tree, indent=4))


def disk(spec: str) -> dict[str, Any]:
    found: dict[str, Any] = {"readwrite": 1}
    old = re.match(r"(phy|file|raw|qcow2):", spec)
    if old:
        spec = spec[old.end() :]
        found["format"] = old[1] if old[1] in ("raw", "qcow2") else "raw"
    places = ["pdev_path", "vdev"] if old else ["pdev_path", "format", "vdev"]
    while spec:
        match = re.match(r"target=(.*)", spec)
        if match:
            found["pdev_path"], spec = match[1].rstrip(","), ""
            continue
        word, _, spec = spec.partition(",")
        key, equals, value = word.strip().partition("=")
        if equals and key == "access":
            found["readwrite"] = int(value in ("rw", "w", ""))
        elif equals and key == "devtype" and value == "cdrom":
            found.update(is_cdrom=1, removable=1, readwrite=0)
        elif equals:
            found[{"backendtype": "backend", "backend": "backend_domname"}.get(key, key)] = value
        elif key == "discard":
            found["discard_enable"] = "True"
        elif key == "direct-io-safe":
            found["direct_io_safe"] = True
        elif places:
            name = places.pop(0)
            found[name] = key or "raw"
            if name == "vdev" and key.endswith(":cdrom"):
                found.update(vdev=key[:-6], is_cdrom=1, removable=1, readwrite=0)
        else:
            found["readwrite"] = int(key in ("w", "rw"))
    found.setdefault("format", "raw")
    return {key: value for key, value in found.items() if value != 0}
