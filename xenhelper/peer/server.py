"""The channel's far end: answers one peer's requests until its connection ends.

Started by sshd as the forced command of that peer's key, so the peer's name comes from
our own authorized_keys and not from what it says. Each request runs in a thread of its
own; nothing of it ever reaches a shell.
"""

import os
import sys
import threading
import time
from typing import Any

import xenhelper
from xenhelper import dead, log, names
from xenhelper.errors import EXIT_FAILED, EXIT_USAGE, XenhelperError
from xenhelper.peer import messages, verbs

MAX_THREADS = 32
# seconds without a line (the link pings every 10) until the connection counts as dead
SILENCE = 60.0
# seconds that running requests get to finish once the connection has ended
FAREWELL = 120.0


class Server:
    """Reads requests from ``source``, writes answers to ``sink`` (descriptors)."""

    def __init__(self, peer: str, source: int, sink: int) -> None:
        self.peer = peer
        self._source = source
        self._sink = sink
        self._write_lock = threading.Lock()
        self._running: set[threading.Thread] = set()
        self._last_heard = time.monotonic()
        self._born = _code_version()

    def serve(self) -> None:
        """Until end of input; then waits (bounded) for what still runs."""
        dead.heard(self.peer)
        self._send({"id": 0, "time": time.monotonic(), "version": xenhelper.__version__})
        self._start(self._preload)
        threading.Thread(target=self._watch_silence, daemon=True).start()
        buffer = b""
        while True:
            try:
                block = os.read(self._source, 65536)
            except OSError:
                break
            if not block:
                break
            self._last_heard = time.monotonic()
            dead.heard(self.peer)
            buffer += block
            *lines, buffer = buffer.split(b"\n")
            if len(buffer) > messages.MAX_BYTES or not all(map(self._take, lines)):
                # nothing after an oversize or garbled line can be trusted to begin at a line
                log.event("failed", f"the peer {self.peer} sent nonsense: connection closed", log.WARNING)
                break
        deadline = time.monotonic() + FAREWELL
        for thread in list(self._running):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _take(self, line: bytes) -> bool:
        """Begin one request. False: the line wasn't a request."""
        try:
            request = messages.decode(line)
        except XenhelperError:
            return False
        number = request.get("id")
        if not isinstance(number, int):
            return False
        if request.get("verb") == "ping":
            answer: dict[str, object] = {"id": 0, "time": time.monotonic()}
            self._send(answer if self._current() else {"id": 0, "again": True})
        elif not self._current():
            self._send({"id": number, "again": True})
        elif len(self._running) >= MAX_THREADS:
            self._send(_failure(number, XenhelperError(f"{os.uname().nodename} is too busy", "try again")))
        else:
            self._start(lambda: self._send(self._answer(number, request)))
        return True

    def _answer(self, number: int, request: dict[str, object]) -> dict[str, object]:
        verb, deadline = request.get("verb"), request.get("deadline")
        try:
            if not isinstance(verb, str) or not isinstance(deadline, int | float):
                raise XenhelperError("the peer's request lacks a verb or a deadline")
            function, schema = verbs.handler(verb)
            args: dict[str, Any] = messages.check(verb, request.get("args"), schema)
            if time.monotonic() > deadline:
                raise XenhelperError(f"{verb}: came too late and was not begun", "try again")
            answer: dict[str, object] = {"id": number, "ok": function(self.peer, args)}
            messages.encode(answer)
            return answer
        except XenhelperError as error:
            return _failure(number, error)
        except Exception as error:
            where = f"{type(error).__name__}: {error}"
            log.event("failed", f"{self.peer} asked {verb!s:.40}: {where}", log.ERROR, peer=self.peer)
            return _failure(
                number,
                XenhelperError(
                    f"{os.uname().nodename}: request {verb!s:.40} failed: {where}",
                    "see `journalctl -t xenhelper` there",
                ),
            )

    def _start(self, work: Any) -> None:
        def body() -> None:
            try:
                work()
            finally:
                self._running.discard(thread)

        thread = threading.Thread(target=body, daemon=True)
        self._running.add(thread)
        thread.start()

    def _send(self, message: dict[str, object]) -> None:
        data = memoryview(messages.encode(message))
        with self._write_lock:
            try:
                while data:
                    data = data[os.write(self._sink, data) :]
            except OSError:
                pass  # the connection is gone, which the reading end notices too

    def _preload(self) -> None:
        for verb in verbs.URGENT:
            try:
                verbs.handler(verb)
            except (ImportError, AttributeError, XenhelperError):
                continue  # said when it is asked for

    def _watch_silence(self) -> None:
        """sshd keeps a session whose client's host died for hours: don't be part of it."""
        while time.monotonic() - self._last_heard < SILENCE:
            time.sleep(5)
        deadline = time.monotonic() + FAREWELL
        for thread in list(self._running):
            thread.join(max(0.0, deadline - time.monotonic()))
        os._exit(0)

    def _current(self) -> bool:
        return _code_version() == self._born


def _failure(number: int, error: XenhelperError) -> dict[str, object]:
    return {
        "id": number,
        "error": error.what[:2000],
        "do": error.do[:1000],
        "exit": error.exit_code or EXIT_FAILED,
    }


def _code_version() -> tuple[int, int]:
    """Changes when the package is upgraded under us."""
    try:
        stat = os.stat(xenhelper.__file__)
    except OSError:
        return (0, 0)
    return (stat.st_ino, stat.st_mtime_ns)


def main(argv: list[str]) -> int:
    """`peer-serve NAME`, by sshd."""
    if len(argv) != 2 or not names.valid_host(argv[1]):
        print("usage: peer-serve NAME (a forced command in authorized_keys)", file=sys.stderr)
        return EXIT_USAGE
    # the channel keeps descriptors that no verb's print() and no child can reach
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.umask(0o022)
    os.chdir("/")
    Server(argv[1], source, sink).serve()
    sys.stderr.flush()
    os._exit(0)  # a thread that is still at it after FAREWELL must not hold us


if __name__ == "__main__":
    sys.exit(main(sys.argv))
