"""A guest that writes numbered versions on its blocks, and what serves its disks.

The guest knows what was acknowledged to it. What wasn't, blkfront issues again after a
migration, while the source's blkback may still be finishing it.
"""

from typing import Any

from tests.sim.end import PRIMARY, End


class Backend:
    """blkback for one disk of one domain on one host."""

    def __init__(self, domain: Any, end: End) -> None:
        self.domain = domain
        self.end = end
        self.world = end.world
        self.open = False
        self.closing = False
        self.outstanding = 0
        self.responses: "list[tuple[int, int, str]]" = []
        self.incarnation = end.incarnation

    def connect(self) -> None:
        """It saw ``physical-device``."""
        if not self.open and not self.closing and self.incarnation == self.end.incarnation:
            self.open = True
            self.end.openers += 1

    def submit(self, block: int, version: int) -> None:
        """A request in the ring, taken a moment later."""
        self.outstanding += 1
        delay = self.world.random.random() ** 3 * 0.015
        self.world.loop.at(delay, self._take, block, version)

    def _take(self, block: int, version: int) -> None:
        end = self.end
        if self.incarnation != end.incarnation:
            return
        if not self.open or end.role != PRIMARY:
            self.world.promises.broken(
                "available", f"{self.domain.name}: its disk {end.pair.name} gave an I/O error"
            )
            self.outstanding -= 1
            return
        end.write(block, version, lambda mode: self._answer(block, version, mode))

    def _answer(self, block: int, version: int, mode: str) -> None:
        self.outstanding -= 1
        if self.domain.state == "running":
            self.domain.guest.acked(self.end, block, version, mode)
        else:
            self.responses.append((block, version, mode))

    def resumed(self) -> None:
        """The guest goes on where it was: it finds the answers in the ring."""
        answers, self.responses = self.responses, []
        for block, version, mode in answers:
            self.domain.guest.acked(self.end, block, version, mode)

    def close(self) -> None:
        """The frontend is gone; let the device go once nothing is in flight."""
        self.closing = True
        self._close()

    def _close(self) -> None:
        if self.incarnation != self.end.incarnation:
            return
        if self.outstanding:
            self.world.loop.at(0.02, self._close)
        elif self.open:
            self.open = False
            self.end.openers -= 1


class Guest:
    """What runs in a VM, wherever its domain is."""

    def __init__(self, world: Any, vm: str, resources: "list[str]") -> None:
        self.world = world
        self.vm = vm
        self.resources = resources
        self.last: "dict[tuple[str, int], int]" = {}
        self.issued: "dict[tuple[str, int], int]" = {}
        self.known: "dict[tuple[str, int], int]" = {}
        self.modes: "dict[tuple[str, int], str]" = {}
        self.domain: Any = None
        self.writing: "list[Any] | None" = None
        self.starts = 0
        self.hot = False

    def start(self, domain: Any) -> None:
        """A domain with this guest runs from now on: fresh or arrived by migration."""
        fresh = not domain.migrated
        self.world.promises.start(self, domain, fresh)
        self.domain = domain
        self.starts += 1
        if fresh:
            # a crash-consistent start: what wasn't acknowledged is whatever the disk has
            for resource in self.resources:
                end = domain.backends[resource].end
                for block in range(end.pair.blocks):
                    self.known[(resource, block)] = end.data[block]
            self.issued.clear()
        else:
            for (resource, block), version in list(self.issued.items()):
                domain.backends[resource].submit(block, version)
            # what waited for the downtime's end comes at once
            self.hot = True
            self.world.loop.at(3.0, self._cool)
        self._schedule()

    def _schedule(self) -> None:
        if self.writing is not None:
            self.writing[2] = None
        rate = self.world.rate * (12 if self.hot else 1)
        delay = self.world.random.expovariate(rate)
        self.writing = self.world.loop.at(delay, self._write)

    def _cool(self) -> None:
        self.hot = False

    def stop(self) -> None:
        if self.writing is not None:
            self.writing[2] = None
            self.writing = None

    def _write(self) -> None:
        self.writing = None
        domain = self.domain
        if domain is None or domain.state != "running":
            return
        self.burst(1 if self.world.random.random() < 0.7 else 3)
        self._schedule()

    def burst(self, count: int) -> None:
        """Write ``count`` blocks that nothing is in flight for; read one back."""
        random = self.world.random
        domain = self.domain
        for _ in range(count):
            resource = self.resources[0] if len(self.resources) == 1 else random.choice(self.resources)
            end = domain.backends[resource].end
            key = (resource, random.randrange(end.pair.blocks))
            if key in self.issued:
                continue
            self.world.promises.read(self, end, key)
            version = self.last.get(key, 0) + 1
            self.last[key] = version
            self.issued[key] = version
            domain.backends[resource].submit(key[1], version)

    def acked(self, end: End, block: int, version: int, mode: str) -> None:
        key = (end.pair.name, block)
        if self.issued.get(key) != version:
            return
        del self.issued[key]
        self.known[key] = version
        self.modes[key] = mode
