"""drbdsetup, as drbd-utils 9.22 on an 8.4 kernel."""

import sys
from typing import Any

from .drbdlink import GENERATION, kernel, linked, linked_host
from .state import HOST, HOSTS, ROOT, WORLD, die, load


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
