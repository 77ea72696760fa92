"""Virtual time and simulated processes: greenlets, switched only where a port is called.

One process runs at a time, and which one is next follows from the seed alone. A process
that is killed does nothing any more: whatever ``finally`` its code still goes through,
every port call raises :class:`Killed` again before it has an effect.
"""

import heapq
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

Output = tuple[int, str, str]  # a program's exit status, stdout and stderr


class Killed(BaseException):
    """kill -9, as the killed process's code sees it."""


class Exec(BaseException):
    """os.execv: the process goes on as another program."""

    def __init__(self, path: str, argv: "list[str]") -> None:
        self.path = path
        self.argv = argv


class Loop:
    """The clock (seconds) and what is due."""

    def __init__(self) -> None:
        self.now = 0.0
        self.heap: "list[Any]" = []
        self.seq = 0
        self.current: "Process | None" = None
        self.hub = getcurrent()
        self.events = 0

    def at(self, delay: float, fn: "Callable[..., None]", *args: Any) -> "list[Any]":
        """Run ``fn(*args)`` after ``delay`` seconds; clear entry[2] to cancel."""
        self.seq += 1
        entry = [self.now + delay, self.seq, fn, args]
        heapq.heappush(self.heap, entry)
        return entry

    def run(self, until: float, stop: "Callable[[], bool] | None" = None) -> None:
        """Let time pass up to ``until``, or until ``stop()``."""
        heap = self.heap
        while heap and heap[0][0] <= until:
            if stop is not None and stop():
                return
            when, _, fn, args = heapq.heappop(heap)
            if fn is None:
                continue
            self.now = when
            self.events += 1
            fn(*args)
        if stop is None or not stop():
            self.now = max(self.now, until)


class Process:
    """A simulated process on a host. ``status`` is None while it runs."""

    def __init__(
        self, world: Any, host: Any, name: str, fn: "Callable[[], Any]", product: bool = False
    ) -> None:
        self.world = world
        self.loop: Loop = world.loop
        self.host = host
        self.name = name
        self.fn = fn
        self.product = product
        self.pid = world.next_pid()
        self.parent: "Process | None" = None
        self.env: "dict[str, str]" = {}
        self.fds: "dict[int, Any]" = {}
        self.dead = False
        self.status: "int | None" = None
        self.result: Any = None
        self.error: "BaseException | None" = None
        self.waiters: "list[Any]" = []
        self.on_end: "list[Callable[[Process], None]]" = []
        self.token = 0
        self.held = False
        self.started = self.loop.now
        self.green = greenlet(self._main, self.loop.hub)

    def start(self, delay: float = 0.0) -> "Process":
        self.host.processes[self.pid] = self
        self.token += 1
        self.loop.at(delay, self._wake, self.token, None)
        return self

    def _main(self, _value: Any) -> None:
        self.started = self.loop.now
        try:
            try:
                if self.dead:
                    raise Killed
                self.result = self.fn()
                self.status = self.result if isinstance(self.result, int) else 0
            except Exec as call:
                self.name = "xl " + " ".join(call.argv[1:])
                self.product = False
                self.result = self.world.exec_xl(self, call.argv)
                self.status = self.result if isinstance(self.result, int) else 0
        except Killed:
            self.status = -9
        except SystemExit as error:
            self.status = int(error.code or 0)
        except Exception as error:
            self.error = error
            self.status = 1
        self._end()

    def _end(self) -> None:
        for fd in list(self.fds):
            self.world.release_fd(self, fd)
        self.host.processes.pop(self.pid, None)
        for callback in self.on_end:
            callback(self)
        for process, token in self.waiters:
            process.wake(token, "ended")

    def kill(self) -> None:
        """SIGKILL."""
        if self.status is not None or self.dead:
            return
        self.dead = True
        self.token += 1
        self.loop.at(0.0, self._unwind)

    def _unwind(self) -> None:
        if self.status is not None or self.green.dead:
            return
        if not self.green:  # it never ran
            self.status = -9
            self._end()
            return
        self._switch(None)

    def block(self, timeout: "float | None" = None) -> Any:
        """Called by the process itself: sleep until woken; "timeout" when time is up."""
        if self.dead:
            raise Killed
        self.token += 1
        if timeout is not None:
            self.loop.at(timeout, self._wake, self.token, "timeout")
        value = self.loop.hub.switch()
        if self.dead:
            raise Killed
        return value

    def next_token(self) -> int:
        """The token that the coming :meth:`block` will have."""
        return self.token + 1

    def wake(self, token: int, value: Any) -> None:
        """Wake it soon if it still waits with this token."""
        self.loop.at(0.0, self._wake, token, value)

    def _wake(self, token: int, value: Any) -> None:
        if token == self.token and self.status is None and not self.dead:
            self._switch(value)

    def _switch(self, value: Any) -> None:
        before = self.loop.current
        self.loop.current = self
        try:
            self.green.switch(value)
        finally:
            self.loop.current = before

    def wait(self, other: "Process", timeout: "float | None" = None) -> bool:
        """Wait for ``other`` to end; False when ``timeout`` came first."""
        if other.status is None:
            other.waiters.append((self, self.next_token()))
            return bool(self.block(timeout) != "timeout") or other.status is not None
        return True

    def __repr__(self) -> str:
        return f"{self.host.name}:{self.name}[{self.pid}]"
