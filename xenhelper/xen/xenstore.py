"""xenstore over its own socket, for the block script and the window: no fork, every
call bounded.

pyxs has no time-outs (it waits for ever for a reply that never comes) and costs a hook
more to import than this whole module takes to run; xenhelper-watch, where neither
matters, uses it. The wire format is xen/include/public/io/xs_wire.h.
"""

import os
import select
import time

from xenhelper import paths, unixsocket
from xenhelper.errors import XenhelperError

_DIRECTORY, _READ, _WATCH, _UNWATCH = 1, 2, 4, 5
_TRANSACTION_START, _TRANSACTION_END, _WRITE, _RM = 6, 7, 11, 13
_WATCH_EVENT, _ERROR = 15, 16
_MAX_PAYLOAD = 4096


class XenstoreError(XenhelperError):
    """xenstored refused (``code`` is its errno name) or gave no answer in time."""

    def __init__(self, what: str, code: str = "") -> None:
        super().__init__(what)
        self.code = code


class Xenstore:
    """One connection. Paths and values are str; a value is cleaned to what xenstore's
    clients can hold (printable ASCII, one line)."""

    def __init__(self, timeout: float = 5.0) -> None:
        self.timeout = timeout
        self._events: "list[tuple[str, str]]" = []
        self._buffer = b""
        self._request = 0
        self._sock: "unixsocket.Socket | None" = None
        try:
            self._sock = unixsocket.new(unixsocket.STREAM)
            self._sock.settimeout(timeout)
            self._sock.connect(paths.XENSTORED_SOCKET)
            self._fd = self._sock.fileno()
        except OSError as error:
            self.close()
            try:  # xenstored in a stub domain: only the kernel's device reaches it
                self._fd = os.open(paths.ROOT + "/dev/xen/xenbus", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                raise XenstoreError(f"can't reach xenstored: {error}; is this a Xen dom0?") from error

    def __enter__(self) -> "Xenstore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For poll(): readable when a watch fired or a reply came."""
        return self._fd

    def close(self) -> None:
        """End the connection; its watches end with it."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        elif getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
        self._fd = -1

    def read(self, path: str) -> "str | None":
        """The value at ``path``, None when there is none. Raises XenstoreError."""
        try:
            return self._call(_READ, _path(path)).decode("utf-8", "replace")
        except XenstoreError as error:
            if error.code == "ENOENT":
                return None
            raise

    def list(self, path: str) -> "list[str]":
        """Names below ``path``; none when it isn't there. Raises XenstoreError."""
        try:
            raw = self._call(_DIRECTORY, _path(path))
        except XenstoreError as error:
            if error.code == "ENOENT":
                return []
            raise
        return [name.decode("utf-8", "replace") for name in raw.split(b"\0") if name]

    def write(self, path: str, value: str) -> None:
        """Set ``path``. Raises XenstoreError."""
        if os.path.exists(paths.CRASH_AT):
            paths.crash("before")
        self._call(_WRITE, _path(path) + clean(value).encode("ascii"))

    def write_all(self, values: "dict[str, str]") -> None:
        """Set several paths in one transaction: others see all of them or none."""
        if os.path.exists(paths.CRASH_AT):
            paths.crash("before")
        for _ in range(10):
            number = self._call(_TRANSACTION_START, b"\0").rstrip(b"\0")
            if not number.isdigit() or len(number) > 10:
                raise XenstoreError("xenstored sent nonsense")
            transaction = int(number)
            for path, value in values.items():
                self._call(_WRITE, _path(path) + clean(value).encode("ascii"), transaction)
            try:
                self._call(_TRANSACTION_END, b"T\0", transaction)
                if os.path.exists(paths.CRASH_AT):
                    paths.crash("after")
                return
            except XenstoreError as error:
                if error.code != "EAGAIN":
                    raise
        raise XenstoreError("xenstore is too busy: a transaction failed ten times")

    def remove(self, path: str) -> None:
        """Remove ``path``; no error when it isn't there."""
        try:
            self._call(_RM, _path(path))
        except XenstoreError as error:
            if error.code != "ENOENT":
                raise

    def watch(self, path: str, token: str) -> None:
        """Fire now, and whenever ``path`` or what is below it changes."""
        self._call(_WATCH, _path(path) + token.encode() + b"\0")

    def next_event(self, timeout: float) -> "tuple[str, str] | None":
        """The next (path, token) of a watch, or None after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not self._events:
            message = self._receive(deadline)
            if message is None:
                return None
        return self._events.pop(0)

    def _call(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        if len(payload) > _MAX_PAYLOAD:
            raise XenstoreError("too long for xenstore", "E2BIG")
        self._request += 1
        header = b"".join(n.to_bytes(4, "little") for n in (kind, self._request, transaction, len(payload)))
        deadline = time.monotonic() + self.timeout
        data = header + payload
        while data:
            data = data[self._send(data) :]
        while True:
            message = self._receive(deadline)
            if message is None:
                raise XenstoreError(f"xenstored gave no answer within {self.timeout:g} s")
            answer, request, body = message
            if request != self._request or answer == _WATCH_EVENT:
                continue
            if answer == _ERROR:
                code = body.rstrip(b"\0").decode("ascii", "replace")
                raise XenstoreError(f"xenstore: {code} at {payload.split(bytes(1))[0].decode()}", code)
            return body

    def _send(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except OSError as error:
            raise XenstoreError(f"xenstored went away: {error}") from error

    def _receive(self, deadline: float) -> "tuple[int, int, bytes] | None":
        """One message (watch events are queued as well), None when time is up."""
        while True:
            if len(self._buffer) >= 16:
                kind, request, _, length = (
                    int.from_bytes(self._buffer[at : at + 4], "little") for at in (0, 4, 8, 12)
                )
                if length > _MAX_PAYLOAD:
                    raise XenstoreError("xenstored sent nonsense")
                if len(self._buffer) >= 16 + length:
                    body, self._buffer = self._buffer[16 : 16 + length], self._buffer[16 + length :]
                    if kind == _WATCH_EVENT:
                        parts = body.decode("utf-8", "replace").split("\0")
                        self._events.append((parts[0], parts[1] if len(parts) > 1 else ""))
                    return kind, request, body
            left = deadline - time.monotonic()
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            if not poll.poll(max(0.0, left) * 1000):
                return None
            try:
                block = os.read(self._fd, 65536)
            except OSError as error:
                raise XenstoreError(f"xenstored went away: {error}") from error
            if not block:
                raise XenstoreError("xenstored closed the connection")
            self._buffer += block


def clean(value: str) -> str:
    """``value`` as one line of printable ASCII (clients such as pyxs fail on others)."""
    return "".join(c if " " <= c <= "~" else "?" if c > "~" else " " for c in value)[:2000]


def _path(path: str) -> bytes:
    if not path or "\0" in path or len(path) > 3000:
        raise XenstoreError(f"not a xenstore path: {path[:60]!r}", "EINVAL")
    return path.encode("utf-8") + b"\0"
