"""LVM: lvs, vgs, lvcreate, lvextend, lvremove, lvchange."""

import json
from typing import Any

from .state import HOST, ROOT, WORLD, die, load, lvm, save

EXTENT = 4 << 20


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
        kind = "V" if item.get("pool") else "t" if item.get("chunk") else "s" if item.get("of") else "-"
        if kind == "-" and any(other.get("of") == name for other in state["volumes"].values()):
            kind = "o"
        pool = state["volumes"].get(f"{group}/{item['pool']}") if item.get("pool") else item
        last = "tz--" if pool.get("zeroes") else "t---" if kind in "Vt" else "----"
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
    thin: dict[str, Any] = {}  # or which volume it is a snapshot of
    if args[:2] == ["--yes", "--snapshot"]:
        if group not in state["volumes"]:
            die(f'Failed to find logical volume "{group}"')
        origin = state["volumes"][group]
        if origin.get("pool"):
            assert "--size" not in args and args[args.index("--setactivationskip") + 1] == "n", args
            thin = {"pool": origin["pool"], "used": 0}
            args = ["--size", f"{origin['size']}b", *args]
        else:
            thin = {"of": group}
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
    if size > free(state, group) and not thin.get("pool"):
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
