"""The replication link's streams: in order, delayed, stuck while the link is cut."""

from collections import deque
from collections.abc import Callable
from typing import Any


class Link:
    """A path between the two hosts. ``slow`` multiplies its delays."""

    def __init__(self, world: Any, name: str) -> None:
        self.world = world
        self.name = name
        self.up = True
        self.slow = False
        self.thin = 0.12
        self.cuts = 0
        self.on_cut: "list[Callable[[], None]]" = []
        self.on_heal: "list[Callable[[], None]]" = []

    def cut(self) -> None:
        if self.up:
            self.up = False
            self.cuts += 1
            for call in self.on_cut:
                call()

    def heal(self) -> None:
        if not self.up:
            self.up = True
            for call in self.on_heal:
                call()

    def delay(self) -> float:
        random = self.world.random
        if self.slow:
            return float(0.05 + random.random() * 0.6)
        return float(0.0002 + random.random() * random.random() * 0.05)


class Stream:
    """One direction of a TCP connection. Delivers callables in order."""

    __slots__ = ("last", "link", "loop", "meta", "pump", "queue", "stalled")

    def __init__(self, link: Link, meta: bool) -> None:
        self.link = link
        self.loop = link.world.loop
        self.queue: "deque[tuple[float, Callable[..., None], tuple[Any, ...]]]" = deque()
        self.last = 0.0
        self.pump: "list[Any] | None" = None
        self.stalled = False
        self.meta = meta
        link.on_heal.append(self._healed)

    def send(self, fn: "Callable[..., None]", *args: Any) -> float:
        """Deliver ``fn(*args)`` at the other end; how long that will take, at best."""
        now = self.loop.now
        delay = self.link.delay()
        if self.meta:
            delay *= 0.3
        # a thin link: each block takes its time on it
        thin = 0.0
        if self.link.slow and not self.meta:
            thin = self.link.thin * (0.5 + self.link.world.random.random())
        self.last = when = max(self.last + thin, now + delay)
        self.queue.append((when, fn, args))
        if self.pump is None and not self.stalled:
            self.pump = self.loop.at(when - now, self._run)
        return when - now

    def _run(self) -> None:
        self.pump = None
        if not self.link.up:
            self.stalled = True
            return
        queue = self.queue
        while queue and queue[0][0] <= self.loop.now:
            _, fn, args = queue.popleft()
            fn(*args)
            if self.pump is not None:
                return
        if queue and self.pump is None:
            self.pump = self.loop.at(queue[0][0] - self.loop.now, self._run)

    def _healed(self) -> None:
        if self.stalled:
            self.stalled = False
            if self.queue and self.pump is None:
                self.pump = self.loop.at(self.link.world.random.random() * 0.5, self._run)

    def drop(self) -> None:
        """The connection is gone, and what was on its way."""
        self.queue.clear()
        self.last = self.loop.now
