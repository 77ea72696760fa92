"""A xenstored with a real socket and a tree: reads, writes, transactions, watches, errors."""

import os
import socket
import threading


class FakeXenstored:
    """Serves one tree on a unix socket until closed. ``silent`` makes it answer nothing."""

    def __init__(self, path: str, tree: dict[str, str] | None = None) -> None:
        self.tree = dict(tree or {})
        self.silent = False
        self.hang_up = False
        self.conflicts = 0
        self._lock = threading.Lock()
        self._watchers: list[tuple[socket.socket, str, str]] = []
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(path)
        self._server.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def fire(self, path: str) -> None:
        """What xenstored does when ``path`` changes (or a domain goes, for @releaseDomain)."""
        for client, watched, token in list(self._watchers):
            if path == watched or path.startswith(watched + "/"):
                self._reply(client, 15, 0, 0, f"{path}\0{token}\0".encode())

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        while header := stream.read(16):
            kind, request, transaction, length = (
                int.from_bytes(header[n : n + 4], "little") for n in (0, 4, 8, 12)
            )
            body = stream.read(length)
            if self.hang_up:
                client.close()
                stream.close()
                return
            if self.silent:
                continue
            with self._lock:
                self._answer(client, kind, request, transaction, body)

    def _answer(self, client: socket.socket, kind: int, request: int, transaction: int, body: bytes) -> None:
        path, _, rest = body.partition(b"\0")
        name = path.decode()
        if kind == 2:
            value = self.tree.get(name)
            self._reply(
                client,
                *((2, request, 0, value.encode()) if value is not None else (16, request, 0, b"ENOENT\0")),
            )
        elif kind == 1:
            below = {key[len(name) + 1 :].split("/")[0] for key in self.tree if key.startswith(name + "/")}
            self._reply(client, 1, request, 0, b"".join(sorted(n.encode() + b"\0" for n in below)))
        elif kind == 11:
            self.tree[name] = rest.decode()
            self._reply(client, 11, request, 0, b"OK\0")
        elif kind == 13:
            found = [key for key in self.tree if key == name or key.startswith(name + "/")]
            for key in found:
                del self.tree[key]
            self._reply(client, *((13, request, 0, b"OK\0") if found else (16, request, 0, b"ENOENT\0")))
        elif kind == 6:
            self._reply(client, 6, request, 0, b"7\0")
        elif kind == 7 and self.conflicts:
            self.conflicts -= 1
            self._reply(client, 16, request, transaction, b"EAGAIN\0")
        elif kind == 4:
            self._watchers.append((client, name, rest.rstrip(b"\0").decode()))
            self._reply(client, 4, request, 0, b"OK\0")
            self._reply(client, 15, 0, 0, path + b"\0" + rest)
        else:
            self._reply(client, kind, request, 0, b"OK\0")

    @staticmethod
    def _reply(client: socket.socket, kind: int, request: int, transaction: int, body: bytes) -> None:
        try:
            client.sendall(
                b"".join(n.to_bytes(4, "little") for n in (kind, request, transaction, len(body))) + body
            )
        except OSError:
            pass
