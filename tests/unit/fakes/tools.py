"""Stand-ins for xl, LVM and DRBD's tools: one program under many names, with state on disk.

The world is a folder with a root folder per host. LVM's state is WORLD/HOST.lvm.json, the
kernels' DRBD state WORLD/drbd.json; /proc/drbd of both hosts is written from it. Every
call is counted in WORLD/calls, and WORLD/fault (``N kill``, ``N kill-after``, ``N fail``,
``N power`` or ``fail TEXT``, ``power TEXT``) makes the Nth, or one whose command line holds TEXT, go wrong.
"""

import fcntl
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

WORLD = Path(os.environ["XH_WORLD"])
HOST = os.environ["XH_HOST"]
ROOT = WORLD / HOST
EXTENT = 4 << 20
GENERATION = [0x1000, 0, 0x20, 0]
HOSTS = [name for name in ("alice", "bob", "carol") if (WORLD / name).is_dir()]


def load(name: str, default: Any) -> Any:
    path = WORLD / name
    return json.loads(path.read_text()) if path.exists() else default


def save(name: str, value: Any) -> None:
    (WORLD / name).write_text(json.dumps(value))


def die(text: str, status: int = 5) -> None:
    print(text, file=sys.stderr)
    sys.exit(status)


def fault(line: str) -> str:
    number = int(load("calls", 0)) + 1
    save("calls", number)
    with (WORLD / "log").open("a") as log:
        log.write(f"{number} {HOST} {line}\n")
    plan = (WORLD / "fault").read_text().split(None, 1) if (WORLD / "fault").exists() else []
    if plan and plan[0] == str(number):
        return plan[1].strip()
    hit = bool(plan) and plan[0] in ("fail", "power") and plan[1].strip() in f"{HOST} {line}"
    return plan[0] if hit else ""


# LVM


def lvm() -> Any:
    return load(f"{HOST}.lvm.json", {"groups": {}, "volumes": {}})


def free(state: Any, group: str) -> int:
    mine = (item for name, item in state["volumes"].items() if name.split("/")[0] == group)
    return int(state["groups"][group]) - sum(int(item["size"]) for item in mine if not item.get("pool"))


def allocated(state: Any, pool: str) -> int:
    """Bytes of a thin pool (VG/POOL) that its volumes have."""
    items = state["volumes"].items()
    return sum(item["used"] for name, item in items if f"{name.split('/')[0]}/{item.get('pool')}" == pool)


def thin_row(state: Any, name: str, item: Any) -> dict[str, str]:
    """What lvs says of a thin volume, or a pool (``chunk``); of others it has nothing to say."""
    if item.get("pool"):
        percent = f"{100 * item['used'] / item['size']:.2f}"
        return {"pool_lv": item["pool"], "data_percent": percent, "metadata_percent": "", "chunk_size": "0"}
    if item.get("chunk"):
        percent = f"{100 * allocated(state, name) / item['size']:.2f}"
        rest = {"metadata_percent": f"{item['meta']:.2f}", "chunk_size": str(item["chunk"])}
        return {"pool_lv": "", "data_percent": percent, **rest}
    return {"pool_lv": "", "data_percent": "", "metadata_percent": "", "chunk_size": "0"}


def vg_row(state: Any, group: str) -> dict[str, str]:
    size, left = state["groups"][group], free(state, group)
    return {"vg_name": group, "vg_size": str(size), "vg_free": str(left), "vg_extent_size": str(EXTENT)}


def lvs(args: list[str]) -> None:
    state = lvm()
    rows: list[dict[str, str]] = []
    for name, item in state["volumes"].items():
        group, volume = name.split("/")
        kind = "V" if item.get("pool") else "t" if item.get("chunk") else "-"
        pool = state["volumes"].get(f"{group}/{item['pool']}") if item.get("pool") else item
        last = "tz--" if pool.get("zeroes") else "t---" if kind != "-" else "----"
        attr = f"{kind}wi-a{'o' if item.get('open') else '-'}{last}"
        rows.append(
            {
                "lv_name": volume,
                "lv_size": str(item["size"]),
                "lv_tags": ",".join(item["tags"]),
                "lv_attr": attr,
            }
            | {"lv_kernel_major": "254", "lv_kernel_minor": str(len(rows))}
            | thin_row(state, name, item)
            | vg_row(state, group)
        )
    print(json.dumps({"report": [{"lv": rows}], "log": []}))


def vgs(args: list[str]) -> None:
    state = lvm()
    print(json.dumps({"report": [{"vg": [vg_row(state, group) for group in state["groups"]]}], "log": []}))


def lvcreate(args: list[str]) -> None:
    state, group = lvm(), args[-1]
    thin: dict[str, Any] = {}
    if args[:2] == ["--yes", "--snapshot"]:
        if group not in state["volumes"]:
            die(f'Failed to find logical volume "{group}"')
        origin = state["volumes"][group]
        if origin.get("pool"):
            assert "--size" not in args and args[args.index("--setactivationskip") + 1] == "n", args
            thin = {"pool": origin["pool"], "used": 0}
            args = ["--size", f"{origin['size']}b", *args]
        group = group.split("/")[0]
    elif args[1] == "--virtualsize":
        assert args[0] == "--yes" and args[3] == "--thinpool" and "--size" not in args, args
        thin = {"pool": args[4], "used": 0}
        args = ["--size", args[2], *args]
        if not state["volumes"].get(f"{group}/{thin['pool']}", {}).get("chunk"):
            die(f"Thin pool {group}/{thin['pool']} not found.")
    else:
        assert args[:5] == ["--yes", "--wipesignatures", "y", "--zero", "y"], args
    size = int(args[args.index("--size") + 1].removesuffix("b"))
    name = f"{group}/{args[args.index('--name') + 1]}"
    tags = [args[at + 1] for at, word in enumerate(args) if word == "--addtag"]
    size = -(-size // EXTENT) * EXTENT
    if group not in state["groups"]:
        die(f'Volume group "{group}" not found')
    if name in state["volumes"]:
        die(f'Logical Volume "{name}" already exists')
    if size > free(state, group) and not thin:
        die(f'Volume group "{group}" has insufficient free space')
    state["volumes"][name] = {"size": size, "tags": tags, **thin}
    save(f"{HOST}.lvm.json", state)
    path = ROOT / "dev" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if (WORLD / "stale").exists():  # what lay there before
            file.write(b"\xa5" * size)
        file.truncate(size)


def lvextend(args: list[str]) -> None:
    state, name = lvm(), args[-1]
    assert args[:2] == ["--yes", "--size"], args
    size = -(-int(args[2].removesuffix("b")) // EXTENT) * EXTENT
    if name not in state["volumes"]:
        die(f'Failed to find logical volume "{name}"')
    more = size - state["volumes"][name]["size"]
    if more <= 0:
        die("New size given isn't larger than existing size")
    if more > free(state, name.split("/")[0]) and not state["volumes"][name].get("pool"):
        die("Insufficient free space")
    state["volumes"][name]["size"] = size
    save(f"{HOST}.lvm.json", state)
    with (ROOT / "dev" / name).open("r+b") as file:
        file.truncate(size)


def lvremove(args: list[str]) -> None:
    state, name = lvm(), args[-1]
    if name not in state["volumes"]:
        die(f'Failed to find logical volume "{name}"')
    if state["volumes"][name].get("open"):
        die(f"Logical volume {name} in use.")
    for host in load("drbd.json", {}).get(HOST, {}).values():
        if f"/dev/{name}" in (host["volume"], host["meta"]):
            die(f"Logical volume {name} in use.")
    del state["volumes"][name]
    save(f"{HOST}.lvm.json", state)
    (ROOT / "dev" / name).unlink()


def lvchange(args: list[str]) -> None:
    state, name = lvm(), args[-1]
    if name not in state["volumes"]:
        die(f'Failed to find logical volume "{name}"')
    tags = state["volumes"][name]["tags"]
    for at, word in enumerate(args):
        if word == "--addtag" and args[at + 1] not in tags:
            tags.append(args[at + 1])
        elif word == "--deltag" and args[at + 1] in tags:
            tags.remove(args[at + 1])
    save(f"{HOST}.lvm.json", state)


# DRBD


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


def linked(state: Any, host: str, name: str) -> Any:
    """The peer's end of a resource that both hosts have up with the same settings."""
    there = linked_host(state, host, name)
    return state[there][name] if there else None


def linked_host(state: Any, host: str, name: str) -> str:
    keys = ("port", "secret")
    item = state[host][name]
    for other in HOSTS:
        peer = state.get(other, {}).get(name)
        if other == host or peer is None or peer.get("alone") or item.get("alone"):
            continue
        if all(peer[key] == item[key] for key in keys) and (WORLD / "apart").exists() is False:
            return other
    return ""


def kernel(state: Any) -> None:
    """Connect what can talk, and write both hosts' /proc/drbd."""
    for host in HOSTS:
        lines = ["version: 8.4.11 (api:1/proto:86-101)", "srcversion: 0", ""]
        for name, item in sorted(state.get(host, {}).items()):
            peer = linked(state, host, name)
            if peer and "UpToDate" in (item["disk"], peer["disk"]) and not (WORLD / "nosync").exists():
                if item["disk"] != peer["disk"]:
                    synced(item, peer)
                    fill(host, item, linked_host(state, host, name), peer)
                item["disk"] = peer["disk"] = "UpToDate"
            roles = f"{item['role']}/{peer['role'] if peer else 'Unknown'}"
            disks = f"{item['disk']}/{peer['disk'] if peer else 'DUnknown'}"
            link = "Connected" if peer else "StandAlone" if item.get("alone") else "WFConnection"
            lines.append(f"{item['minor']}: cs:{link} ro:{roles} ds:{disks} A r-----")
            lines.append("    ns:0 nr:0 dw:0 dr:0 oos:0")
        proc = WORLD / host / "proc"
        proc.mkdir(parents=True, exist_ok=True)
        (proc / ".drbd").write_text("\n".join(lines) + "\n")
        (proc / ".drbd").rename(proc / "drbd")
    save("drbd.json", state)


def fill(one: str, item: Any, two: str, peer: Any) -> None:
    """The target's volume, if it is thin, has all of its blocks after a sync, or those only that
    the source has, where DRBD could leave out what is zero."""
    ends = [(one, item), (two, peer)]
    (source, good), (target, new) = ends if item["disk"] == "UpToDate" else ends[::-1]
    theirs = load(f"{target}.lvm.json", {})["volumes"]
    had = load(f"{source}.lvm.json", {})["volumes"].get(good["volume"].removeprefix("/dev/"), {})
    volume = theirs.get(new["volume"].removeprefix("/dev/"), {})
    if volume.get("pool"):
        volume["used"] = had.get("used", volume["size"]) if new.get("thin") else volume["size"]
        save(f"{target}.lvm.json", load(f"{target}.lvm.json", {}) | {"volumes": theirs})


def synced(one: Any, two: Any) -> None:
    """The source's bitmap UUID goes to its history; the target is of its generation."""
    source, target = (one, two) if one["disk"] == "UpToDate" else (two, one)
    current, _, first, _ = source.get("gi", GENERATION)
    source["gi"] = [current, 0, int.from_bytes(os.urandom(7), "big") & ~1, first]
    target["gi"] = [current, 0, 0, 0]


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


def show(state: Any, name: str) -> None:
    """As drbdsetup of 8.4 prints it (captured/drbdsetup-show-*)."""
    item = state.get(HOST, {}).get(name)
    if item is None:
        die("No such device", 20)
    address = item.get("address", "")
    pair = {"10.99.0.1": "10.99.0.2", "10.99.0.2": "10.99.0.1"}
    remote = item.get("remote") or pair.get(address, "192.168.9.9")
    meta = item["meta"] if item["meta"] == "internal" else f'"{item["meta"]}"'
    dual = "allow-two-primaries yes;" if item["dual"] == "yes" else ""
    port = item["port"]
    print(
        f"resource {name} {{\n    net {{\n        protocol\t{item['protocol']};\n        {dual}\n    }}\n"
        + (
            ""
            if item.get("alone")
            else f"    _remote_host {{\n        address\t\t\tipv4 {remote}:{port};\n    }}\n"
        )
        + f"    _this_host {{\n        address\t\t\tipv4 {address}:{port};\n        volume 0 {{\n"
        f'            device\t\t\tminor {item["minor"]};\n            disk\t\t\t"{item["volume"]}";\n'
        f"            meta-disk\t\t\t{meta};\n            disk {{\n"
        f"                fencing         \t{item['fencing']};\n            }}\n        }}\n    }}\n}}"
    )


def drbdmeta(args: list[str]) -> None:
    assert args[0] == "--force" and args[2] == "v08" and args[4:] == ["flex-external", "create-md"], args
    path = ROOT / args[3].lstrip("/")
    if not path.exists():
        die(f"open({args[3]}) failed: No such file or directory", 20)
    assert path.read_bytes()[: 1 << 20].strip(b"\0") == b"", "metadata volume wasn't zeroed"
    with path.open("r+b") as file:
        file.write(b"drbd\0\0\0\0")


def drbdsetup(args: list[str]) -> None:
    state = load("drbd.json", {})
    mine = state.setdefault(HOST, {})
    if args[0] == "down":
        if args[1] not in mine:
            sys.exit(0)  # no error, whatever a config command says (drbdsetup.c, missing_ok)
        if mine[args[1]].get("open"):  # 8.4's down demotes first (drbd_adm_down)
            die("State change failed: (-12) Device is held open by someone", 11)
        item = mine.pop(args[1])
        with (ROOT / item["meta"].lstrip("/")).open("r+b") as file:
            file.write(b"drbdgood" if item["disk"] == "UpToDate" else b"drbd\0\0\0\0")
    elif args[0] in ("primary", "secondary"):
        item = next((value for value in mine.values() if value["minor"] == int(args[1])), None)
        if item is None:
            die(f"{args[1]}: Failure: (127) Device minor not allocated", 10)
            return
        if args[0] == "primary" and item["disk"] != "UpToDate" and "--force" not in args:
            die(f"{args[1]}: State change failed: (-2) Need access to UpToDate data", 17)
        item["role"] = args[0].capitalize()
        item["disk"] = "UpToDate" if args[0] == "primary" else item["disk"]
    elif args[0] == "resize":
        name, item = next((name, item) for name, item in mine.items() if item["minor"] == int(args[1]))
        peer = linked(state, HOST, name)
        if (WORLD / "resync").exists():
            die("Failure: (130) Resize not allowed during resync.", 10)
        if "Primary" not in (item["role"], peer["role"]):
            die("Failure: (131) Need one Primary node to resize.", 10)
        ends = ((HOST, item), (linked_host(state, HOST, name), peer))
        sizes = [
            load(f"{host}.lvm.json", {})["volumes"][end["volume"].removeprefix("/dev/")]["size"]
            for host, end in ends
        ]
        item["size"] = peer["size"] = min(sizes)
    elif args[0] == "refresh":  # no verb of DRBD's: the world has changed
        pass
    elif args[0] == "disconnect":
        port = int(args[1].rpartition(":")[2])
        for item in mine.values():
            if item["port"] == port:
                if item["role"] == "Primary":  # a generation of its own (drbd_uuid_new_current)
                    current, bitmap, *history = item.get("gi", GENERATION)
                    item["gi"] = [current + 0x1000, bitmap or current, *history]
                item["alone"] = True
    elif args[0] == "show-gi":
        item = next(value for value in mine.values() if value["minor"] == int(args[1]))
        print(":".join(f"{value:016X}" for value in item.get("gi", GENERATION)) + ":1:1:0:1:0:0:0")
        return
    elif args[0] == "show":
        show(state, args[1])
        return
    elif args[0] == "net-options":
        port = int(args[1].rpartition(":")[2])
        for host in HOSTS:
            for item in state.get(host, {}).values():
                if item["port"] == port:
                    item.update(protocol=args[3][-1], dual=args[4].rpartition("=")[2])
    elif args[0] == "events2":
        for name, item in mine.items():
            if name == args[-1] or args[-1].startswith("--"):
                print(f"exists resource name:{name} role:{item['role']} suspended:no")
                kib = item["size"] // 1024
                print(
                    f"exists device name:{name} volume:0 minor:{item['minor']} disk:{item['disk']} size:{kib}"
                )
                peer = linked(state, HOST, name)
                link = (
                    f"connection:Connected role:{peer['role']}"
                    if peer
                    else f"connection:{'StandAlone' if item.get('alone') else 'Connecting'} role:Unknown"
                )
                print(f"exists connection name:{name} {link}")
                if peer:
                    how = "SyncSource done:37.00" if (WORLD / "resync").exists() else "Established"
                    print(
                        f"exists peer-device name:{name} volume:0 replication:{how} peer-disk:{peer['disk']}"
                    )
        return
    else:
        raise AssertionError(args)
    kernel(state)


# ssh


def ssh(args: list[str]) -> None:
    """The old server of tests/unit/fakes/oldserver.py: its commands run here, with its tools."""
    if args[0] == "-G":
        print("port 22")
        return
    assert args[:2] == ["-o", "BatchMode=yes"] and args[-3:-1] == ["--", "root@old"], args
    if (WORLD / "old.off").exists():
        die("ssh: connect to host old port 22: No route to host", 255)
    path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    assert args[-1].startswith(f"env {path} LC_ALL=C sh -c "), args[-1]
    os.environ["PATH"] = "/usr/bin:/bin"
    os.execv("/bin/sh", ["sh", "-c", args[-1].replace(path, f"PATH={WORLD}/old/bin:/usr/bin:/bin", 1)])


# xl


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


def main() -> None:
    name, args = os.path.basename(sys.argv[0]), sys.argv[1:]
    with (WORLD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wrong = fault(" ".join([name, *args]))
        if wrong == "power":
            (WORLD / f"{HOST}.off").touch()
            wrong = "kill"
        if wrong == "kill":
            os.kill(os.getppid(), signal.SIGKILL)
            sys.exit(1)
        if wrong == "fail":
            die("told to fail", 5)
        if name == "ssh":
            fcntl.flock(lock, fcntl.LOCK_UN)  # it takes its time
        if name not in ("modprobe", "systemctl", "defineXML"):
            globals()[name](args)
        if wrong == "kill-after":
            os.kill(os.getppid(), signal.SIGKILL)


main()
