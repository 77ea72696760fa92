"""The promises of the design, watched while a schedule runs and checked at its end."""

from typing import Any

from tests.sim.end import PRIMARY, End


class Broken(Exception):
    """A promise is broken: which, and how."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


class Promises:
    """Collects what is broken; the first stops the schedule."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.found: "list[Broken]" = []
        # resources for which a person accepted older data, and what that cost
        self.accepted: "set[str]" = set()
        self.ever_accepted: "set[str]" = set()
        self.lost = 0
        # resources that DRBD refuses to connect by itself: a case for `recover`
        self.split: "set[str]" = set()
        self.starts = 0
        self.migrations = 0
        self.on_start: Any = None

    def broken(self, promise: str, what: str) -> None:
        self.world.trace(None, f"*** {promise}: {what}")
        self.found.append(Broken(promise, what))

    # -- one writer ------------------------------------------------------------------

    def _running(self, vm: str) -> "list[Any]":
        return [
            domain
            for host in self.world.hosts.values()
            for domain in host.domains.values()
            if domain.guest.vm == vm and domain.state == "running"
        ]

    def role(self, end: End) -> None:
        """An end became Primary or Secondary."""
        if end.role != PRIMARY or end.peer.role != PRIMARY:
            return
        if self.world.libvirt:
            return  # for the whole pre-copy; that one guest runs is looked at all the same
        vm = self.world.vm_of[end.pair.name]
        # a source whose xl gave up a moment ago may have been granted from just before
        running = [d for d in self._running(vm) if self.world.loop.now - d.resumed_at > 1.5]
        if running:
            self.broken(
                "one writer",
                f"{end.pair.name} became Primary on {end.host.name}, too, while {running} is running",
            )

    def _one(self, guest: Any, domain: Any) -> None:
        others = [other for other in self._running(guest.vm) if other is not domain]
        if others:
            self.broken("one writer", f"{domain} runs, and so does {others}")

    def wrote(self, end: End, block: int, version: int) -> None:
        """A block reached a disk (for traces)."""

    # -- no stale start --------------------------------------------------------------

    def start(self, guest: Any, domain: Any, fresh: bool) -> None:
        """The guest is about to run in this domain."""
        self._one(guest, domain)
        self.starts += 1
        if self.on_start is not None:
            self.on_start(domain)
        if not fresh:
            self.migrations += 1
        for resource in guest.resources:
            backend = domain.backends.get(resource)
            if backend is None or backend.end.role != PRIMARY:
                self.broken("available", f"{domain} starts without its disk {resource}")
                continue
            self._stale(guest, domain, backend.end)
            # what a takeover accepted is settled with the first start after it
            self.accepted.discard(resource)

    def _stale(self, guest: Any, domain: Any, end: End) -> None:
        name = end.pair.name
        old = []
        for block in range(end.pair.blocks):
            known = guest.known.get((name, block), 0)
            if end.data[block] < known:
                old.append((block, end.data[block], known, guest.modes.get((name, block), "?")))
        if not old:
            return
        if name in self.accepted:
            self.lost += len(old)
            for block, have, _, _ in old:
                guest.known[(name, block)] = have
            return
        self.broken(
            "no stale start", f"{domain} starts on {name} with old blocks (block, has, acked, mode) {old}"
        )

    def read(self, guest: Any, end: End, key: "tuple[str, int]") -> None:
        """The guest reads a block back."""
        known = guest.known.get(key, 0)
        if end.data[key[1]] < known and end.sync != "SyncTarget":
            self.broken(
                "no stale start", f"{guest.vm} reads {end.data[key[1]]} of {key}, acknowledged was {known}"
            )

    def resumed(self, domain: Any) -> None:
        """A suspended guest goes on where it was."""
        self._one(domain.guest, domain)
        for backend in domain.backends.values():
            self._stale(domain.guest, domain, backend.end)

    # -- nothing is discarded --------------------------------------------------------

    def resync(self, pair: Any, source: End, target: End) -> None:
        """The target's differing blocks are about to be overwritten."""
        guest = self.world.guests[self.world.vm_of[pair.name]]
        for block in range(pair.blocks):
            known = guest.known.get((pair.name, block), 0)
            if target.data[block] >= known > source.data[block]:
                if pair.name in self.accepted:
                    self.lost += 1
                    guest.known[(pair.name, block)] = source.data[block]
                    continue
                self.broken(
                    "no data destroyed",
                    f"{pair.name}: resync from {source.host.name} discards block {block}'s"
                    f" acknowledged version {known} (source has {source.data[block]})",
                )

    def split_brain(self, pair: Any) -> None:
        """DRBD found that both sides went on alone."""
        one, two = pair.ends
        blocks = range(pair.blocks)
        both = any(one.data[b] > two.data[b] for b in blocks) and any(
            two.data[b] > one.data[b] for b in blocks
        )
        self.split.add(pair.name)
        if pair.name not in self.ever_accepted and both:
            self.broken("no divergence", f"{pair.name}: split brain that nobody asked for")
