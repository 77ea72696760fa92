"""An old server without xenhelper: a folder, and stand-ins for those of its tools that would
look outside of it. Everything else (sh, sed, sha256sum) is this machine's own.

WORLD/old.json is its state: ``xen``, ``domains``, ``boot``, ``numbered`` (a kernel that numbers
its disks), ``volumes`` ({name: {open, writes}}), ``users`` ({path: [pid, program]}). WORLD/old.plan
makes the Nth sending of bytes go wrong: ``N cut``, ``N stall``, ``N start`` (the VM is started) or
``N write PATH OFFSET`` (somebody writes there, behind what is sent). WORLD/old.sent has a line for
each chunk that was sent or summed up.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TOOLS = ("uname", "cat", "grep", "xl", "find", "lvs", "stat", "blockdev", "losetup", "head", "dd")
WORLD = Path(sys.argv[0]).parents[2]
ROOT = WORLD / "old"


class Old:
    """The test's end of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "old"
        (self.root / "bin").mkdir(parents=True)
        (self.root / "etc/xen/auto").mkdir(parents=True)
        program = self.root / "bin/tools"
        program.write_text(f"#!{sys.executable} -IS\n" + Path(__file__).read_text())
        program.chmod(0o755)
        for name in TOOLS:
            (self.root / "bin" / name).symlink_to("tools")
        state = {"xen": True, "domains": [], "boot": "b0", "numbered": True, "volumes": {}, "users": {}}
        self.write(state)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "old.json").read_text())
        return found

    def write(self, state: dict[str, Any]) -> None:
        (self.folder / "old.json").write_text(json.dumps(state))

    def change(self, **changes: Any) -> None:
        self.write({**self.state(), **changes})

    def volume(self, name: str, data: bytes) -> Path:
        """A logical volume VG/LV with these bytes."""
        state = self.state()
        state["volumes"][name] = {"open": False, "writes": 0}
        self.write(state)
        return self.file(f"/dev/{name}", data)

    def file(self, path: str, data: bytes) -> Path:
        full = self.root / path.lstrip("/")
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)
        return full

    def edit(self, name: str, offset: int, data: bytes) -> None:
        """Somebody writes to a volume, as its kernel counts."""
        edit(self.folder, f"/dev/{name}", offset, data)

    def plan(self, text: str) -> None:
        (self.folder / "old.plan").write_text(text)

    def sent(self) -> list[str]:
        path = self.folder / "old.sent"
        return path.read_text().splitlines() if path.exists() else []

    def forget_sent(self) -> None:
        for name in ("old.sent", "old.plan"):
            (self.folder / name).unlink(missing_ok=True)


def edit(world: Path, path: str, offset: int, data: bytes) -> None:
    with (world / "old" / path.lstrip("/")).open("r+b") as file:
        file.seek(offset)
        file.write(data)
    state = json.loads((world / "old.json").read_text())
    if path.startswith("/dev/"):
        state["volumes"][path.removeprefix("/dev/")]["writes"] += 1
        (world / "old.json").write_text(json.dumps(state))


def real(path: str) -> str:
    return str(ROOT) + path if path.startswith("/") and not path.startswith(str(ROOT)) else path


def number(state: Any, path: str) -> int:
    return list(state["volumes"]).index(path.removeprefix("/dev/"))


def cat(state: Any, path: str) -> str:
    if path.endswith("boot_id"):
        return str(state["boot"])
    if path.startswith("/proc/"):
        pid = path.split("/")[2]
        return next(program for owner, program in state["users"].values() if str(owner) == pid)
    at = int(path.split("/")[4].rpartition(":")[2])
    name = list(state["volumes"])[at]
    if path.endswith("diskseq"):
        if not state["numbered"]:
            sys.exit(1)
        return str(at + 7)
    writes = state["volumes"][name]["writes"]
    return "1" if path.endswith("iostats") else f" 100 0 800 5 {writes} 0 {writes * 8} 5 0 9 9 0 0 0 0 0 0"


def stat(state: Any, args: list[str]) -> None:
    form, path = args[2], args[-1]
    device = path.startswith("/dev/") and path.removeprefix("/dev/") in state["volumes"]
    if device and form == "%F":
        print("block special file")
    elif device and form == "%t %T":
        print(f"fd {number(state, path):x}")
    else:
        os.execv("/usr/bin/stat", ["stat", *args[:-1], real(path)])


def find(state: Any, args: list[str]) -> None:
    if "-samefile" in args:
        user = state["users"].get(args[-1])
        print(f"/proc/{user[0]}/fd/3" if user else "", end="\n" if user else "")
        return
    import subprocess

    words = [real(word) if word.startswith("/etc/xen") else word for word in args]
    done = subprocess.run(["/usr/bin/find", *words], capture_output=True, text=True)
    print(done.stdout.replace(str(ROOT) + "/", "/"), end="")


def dd(args: list[str]) -> None:
    words = dict(word.split("=", 1) for word in args)
    if "if" not in words:
        os.execv("/usr/bin/dd", ["dd", *args])
    size, skip, count = int(words["bs"]), int(words["skip"]), int(words["count"])
    with (WORLD / "old" / words["if"].lstrip("/")).open("rb") as source:
        for at in range(skip, skip + count):
            with (WORLD / "old.sent").open("a+") as log:
                log.write(f"{words['if']} {at}\n")
                log.seek(0)
                sent = len(log.readlines())
            plan = (WORLD / "old.plan").read_text().split() if (WORLD / "old.plan").exists() else ["0"]
            source.seek(at * size)
            data = source.read(size)
            if int(plan[0]) == sent:
                wrong(plan[1:], data)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def wrong(plan: list[str], data: bytes) -> None:
    if plan[0] == "cut":
        sys.stdout.buffer.write(data[: len(data) // 2])
        sys.stdout.buffer.flush()
        print("dd: error reading: Input/output error", file=sys.stderr)
        sys.exit(1)
    if plan[0] == "stall":
        time.sleep(60)
    elif plan[0] == "start":
        state = json.loads((WORLD / "old.json").read_text())
        state["domains"].append("web1")
        (WORLD / "old.json").write_text(json.dumps(state))
    elif plan[0] == "write":
        edit(WORLD, plan[1], int(plan[2]), b"late")


def main() -> None:
    name, args = os.path.basename(sys.argv[0]), sys.argv[1:]
    state = json.loads((WORLD / "old.json").read_text())
    if name == "uname":
        print("old")
    elif name == "cat":
        print(cat(state, args[-1]))
    elif name == "grep":
        if "control_d" in args:
            sys.exit(0 if state["xen"] else 1)
        os.execv("/usr/bin/grep", ["grep", *args])
    elif name == "xl":
        assert args == ["list"], args
        if state["domains"] is None:
            sys.exit(1)
        print("Name                                        ID   Mem VCPUs\tState\tTime(s)")
        for at, domain in enumerate(["Domain-0", *state["domains"]]):
            print(f"{domain:<40} {at:>5}  4096     2     r-----     123.4")
    elif name == "lvs":
        for volume, item in state["volumes"].items():
            group, lv = volume.split("/")
            size = (WORLD / "old/dev" / volume).stat().st_size
            pool = item.get("pool", "")
            if state.get("old_lvm") and "pool_lv" in " ".join(args):
                sys.exit(5)  # Unrecognised field: pool_lv
            kind = "V" if pool else "-"
            attributes = f"{kind}wi-ao----" if item["open"] else f"{kind}wi-a-----"
            thin = f"|{pool}|{item.get('filled', '')}" if "pool_lv" in " ".join(args) else ""
            print(f"  {group}|{lv}|{size}|{attributes}|253|{number(state, volume)}{thin}")
    elif name == "stat":
        stat(state, args)
    elif name == "find":
        find(state, args)
    elif name == "blockdev":
        print(os.stat(real(args[-1])).st_size)
    elif name == "losetup":
        loop = state.get("loop", "")
        print(f"/dev/loop0: []: ({loop})" if loop == args[-1] else "", end="\n" if loop == args[-1] else "")
    elif name == "head":
        os.execv("/usr/bin/head", ["head", *args[:-1], real(args[-1])])
    elif name == "dd":
        dd(args)


if __name__ == "__main__":
    main()
