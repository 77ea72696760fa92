"""A host's files, in memory: what is on disk, what was only written, what is in /run."""

import errno
import os as real_os
from typing import Any

DURABLE = ("/var/lib/", "/etc/")


class Node:
    """A file. ``durable`` is what a power cut leaves of its content."""

    __slots__ = ("data", "durable", "lock")

    def __init__(self) -> None:
        self.data = b""
        self.durable: "bytes | None" = None
        self.lock: "Open | None" = None


class Open:
    """An open file description; descriptors (also in children) share it."""

    __slots__ = ("closed", "device", "folder", "inheritable", "node", "offset", "path", "refs")

    def __init__(self, path: str, node: "Node | None", folder: bool = False, device: Any = None) -> None:
        self.path = path
        self.node = node
        self.folder = folder
        self.device = device
        self.offset = 0
        self.refs = 1
        self.inheritable = False
        self.closed = False

    def close(self) -> None:
        self.refs -= 1
        if self.refs > 0:
            return
        self.closed = True
        if self.node is not None and self.node.lock is self:
            self.node.lock = None
        if self.device is not None:
            self.device.close()


class Files:
    """One host's tree. Folders exist as soon as something is in them, or by mkdir."""

    def __init__(self) -> None:
        self.live: "dict[str, Node]" = {}
        self.on_disk: "dict[str, Node]" = {}
        self.folders: "set[str]" = set()

    def is_folder(self, path: str) -> bool:
        path = path.rstrip("/")
        if path in self.folders:
            return True
        prefix = path + "/"
        return any(name.startswith(prefix) for name in self.live)

    def listdir(self, path: str) -> "list[str]":
        prefix = path.rstrip("/") + "/"
        at = len(prefix)
        found = {name[at:].split("/", 1)[0] for name in self.live if name.startswith(prefix)}
        found |= {name[at:].split("/", 1)[0] for name in self.folders if name.startswith(prefix)}
        if not found and not self.is_folder(path):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return sorted(found)

    def put(self, path: str, data: bytes) -> None:
        """Place a durable file (set-up)."""
        node = Node()
        node.data = node.durable = data
        self.live[path] = node
        self.on_disk[path] = node

    def open(self, path: str, flags: int) -> Open:
        if path in self.live:
            if flags & real_os.O_EXCL and flags & real_os.O_CREAT:
                raise FileExistsError(errno.EEXIST, "File exists", path)
            node = self.live[path]
            if flags & real_os.O_TRUNC:
                node.data = b""
            return Open(path, node)
        if self.is_folder(path):
            return Open(path, None, folder=True)
        if not flags & real_os.O_CREAT:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        node = self.live[path] = Node()
        return Open(path, node)

    def fsync(self, file: Open) -> None:
        if file.node is not None:
            file.node.durable = file.node.data
            return
        prefix = file.path.rstrip("/") + "/"
        for name in [n for n in self.on_disk if n.startswith(prefix) and "/" not in n[len(prefix) :]]:
            if name not in self.live:
                del self.on_disk[name]
        for name, node in self.live.items():
            if name.startswith(prefix) and "/" not in name[len(prefix) :]:
                self.on_disk[name] = node

    def rename(self, old: str, new: str) -> None:
        if old not in self.live:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", old)
        self.live[new] = self.live.pop(old)

    def unlink(self, path: str) -> None:
        if path not in self.live:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        del self.live[path]

    def sync(self) -> None:
        """What a clean shutdown does."""
        for node in self.live.values():
            node.durable = node.data
        self.on_disk = dict(self.live)

    def power_cut(self, random: Any) -> None:
        """Only what is durable is left; what was merely written may be, too."""
        after: "dict[str, Node]" = {}
        kept = dict(self.on_disk)
        for name, node in self.live.items():
            if name.startswith(DURABLE) and self.on_disk.get(name) is not node and random.random() < 0.4:
                kept[name] = node
        for name in list(kept):
            if name not in self.live and random.random() < 0.4:
                del kept[name]
        for name, node in kept.items():
            if not name.startswith(DURABLE):
                continue
            fresh = Node()
            data = node.data if node.durable is None or random.random() < 0.4 else node.durable
            fresh.data = fresh.durable = data if node.durable is not None or random.random() < 0.5 else b""
            after[name] = fresh
        self.live = dict(after)
        self.on_disk = dict(after)
        self.folders = {name for name in self.folders if (name + "/").startswith(DURABLE)}
