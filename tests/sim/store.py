"""xenstore of a host, and the product's connection to it."""

from typing import Any

from xenhelper.xen import xenstore

HOME = "/local/domain/0/"


class Store:
    """The tree. Relative paths are dom0's."""

    def __init__(self) -> None:
        self.values: "dict[str, str]" = {}
        self.watches: "list[tuple[str, str, Client]]" = []

    @staticmethod
    def full(path: str) -> str:
        return path if path.startswith(("/", "@")) else HOME + path

    def get(self, path: str) -> "str | None":
        return self.values.get(self.full(path))

    def put(self, path: str, value: str) -> None:
        path = self.full(path)
        above = path.rpartition("/")[0]
        while above and above not in self.values:  # a folder is a value, too
            self.values[above] = ""
            above = above.rpartition("/")[0]
        self.values[path] = value
        self.fire(path)

    def drop(self, path: str) -> None:
        path = self.full(path)
        gone = [name for name in self.values if name == path or name.startswith(path + "/")]
        for name in gone:
            del self.values[name]
        if gone:
            self.fire(path)
            for watched, token, client in self.watches:
                if self.full(watched).startswith(path + "/"):
                    client.hear(watched, token)

    def list(self, path: str) -> "list[str]":
        prefix = self.full(path) + "/"
        at = len(prefix)
        return sorted({name[at:].split("/", 1)[0] for name in self.values if name.startswith(prefix)})

    def fire(self, path: str) -> None:
        for watched, token, client in self.watches:
            full = self.full(watched)
            if path == full or path.startswith(full + "/"):
                # told as the watch was named: relative or not
                client.hear(watched + path[len(full) :], token)


class Client:
    """What stands for xenhelper.xen.xenstore.Xenstore in the simulation."""

    world: Any = None

    def __init__(self, timeout: float = 5.0) -> None:
        self.timeout = timeout
        self.process = self.world.loop.current
        self.store: Store = self.process.host.store
        self.events: "list[tuple[str, str]]" = []
        self.waiting: "int | None" = None
        self._call("connect")

    def _call(self, what: str) -> None:
        self.world.port(self.world.loop.current, "xenstore " + what, 0.0004)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.store.watches = [entry for entry in self.store.watches if entry[2] is not self]

    def read(self, path: str) -> "str | None":
        return self.store.get(path)

    def list(self, path: str) -> "list[str]":
        self._call("list")
        return self.store.list(path)

    def write(self, path: str, value: str) -> None:
        self.write_all({path: value})

    def write_all(self, values: "dict[str, str]") -> None:
        self._call("write " + next(iter(values)).rsplit("/", 1)[-1])
        for path, value in values.items():
            self.store.put(path, xenstore.clean(value))

    def remove(self, path: str) -> None:
        self._call("remove")
        self.store.drop(path)

    def watch(self, path: str, token: str) -> None:
        self._call("watch")
        self.store.watches.append((path, token, self))
        self.events.append((path, token))

    def next_event(self, timeout: float) -> "tuple[str, str] | None":
        process = self.world.loop.current
        if not self.events:
            self.waiting = process.next_token()
            process.block(timeout)
            self.waiting = None
        return self.events.pop(0) if self.events else None

    def hear(self, path: str, token: str) -> None:
        self.events.append((path, token))
        if self.waiting is not None and self.process.status is None:
            self.process.wake(self.waiting, "event")
