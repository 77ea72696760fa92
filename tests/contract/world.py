"""What both worlds offer a contract test: hosts that run the product's commands.

A test calls the product's own functions through :meth:`Host.do`; what they start, read and
wait for goes to that host, simulated or real. :meth:`Host.run` is for a command's exact
output and exit status.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar
from unittest import mock

import pytest

from tests.lab.bare import MINOR, RESOURCE, VM
from xenhelper import destination, volumes
from xenhelper.drbd import adm, barrier, bringup, events, proc, show, verbs
from xenhelper.errors import CommandFailed
from xenhelper.run import Result
from xenhelper.xen import description, domains, vmconfig

T = TypeVar("T")
# modules of the product that start programs, read files or wait
_PORTS = (adm, barrier, description, destination, domains, events, show, verbs, vmconfig, volumes)
# seconds for what a pair of emulated hosts needs a while for
LONG = 90.0


class Clock:
    """The product's ``time`` on a machine."""

    def __init__(self, machine: Machine) -> None:
        self.monotonic = machine.now
        self.sleep = machine.pause


class World(ABC):
    """Two hosts with one resource, in sync and Secondary on both, and the path between them."""

    alice: Host
    bob: Host

    @abstractmethod
    def now(self) -> float:
        """Seconds that only grow."""

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    def cut_link(self) -> None:
        """No replication from here on; the hosts find out by themselves."""

    @abstractmethod
    def heal_link(self) -> None:
        """Carry packets again, at full speed."""

    @abstractmethod
    def replug_link(self) -> None:
        """Carry packets again, as slow as it is."""

    @abstractmethod
    def crash(self, host: Host) -> None:
        """Power cut; afterwards the host is on again, with the resource not up."""

    @abstractmethod
    def slow_link(self) -> None:
        """So slow that a burst at protocol A is acknowledged long before it has arrived."""

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.alice, self.bob

    def until(self, look: Callable[[], T], what: str, seconds: float = LONG) -> T:
        """Wait until ``look()`` is true, and return it."""
        end = self.now() + seconds
        while not (seen := look()):
            if self.now() > end:
                pytest.fail(f"waited {seconds:g} s for {what}; last: {seen!r}; {self.states()}")
            self.pause(0.2)
        return seen

    def states(self) -> str:
        """Both ends, for messages."""
        return ", ".join(f"{host.name}: {host.state_or_none()!r}" for host in self.hosts)

    def wait_in_sync(self) -> None:
        self.until(
            lambda: all((state := host.state_or_none()) and state.in_sync for host in self.hosts),
            "both ends to be in sync",
        )

    def wait_apart(self) -> None:
        """Until both have noticed that the link is gone."""
        self.until(lambda: not any(host.state().connected for host in self.hosts), "the loss to be noticed")

    def stay_apart(self) -> None:
        """Until a side has given up connecting; they don't meet after that either."""
        self.until(
            lambda: any(host.state().connection == "StandAlone" for host in self.hosts), "a side to give up"
        )
        self.pause(3.0)
        assert not any(host.state().connected for host in self.hosts)

    def lose_link(self) -> None:
        """Cut the link and wait until both have noticed."""
        self.cut_link()
        self.wait_apart()


class Machine(ABC):
    """Where the product's commands run."""

    name: str

    @abstractmethod
    def run(self, argv: list[str], timeout: float = 60.0) -> Result:
        """The command as the product would start it; any exit status is an answer."""

    @abstractmethod
    def read_file(self, path: str) -> str:
        """A file's text. Raises FileNotFoundError."""

    @abstractmethod
    def read_link(self, path: str) -> str:
        """Where a symbolic link leads. Raises FileNotFoundError."""

    @abstractmethod
    def write_file(self, path: str, text: str) -> str:
        """Make a configuration file; the path by which commands reach it."""

    def path(self, path: str) -> str:
        """The path by which commands reach a file of this machine."""
        return path

    @abstractmethod
    def size_of(self, path: str) -> int:
        """Bytes of a block device."""

    @abstractmethod
    def holding(self, path: str) -> AbstractContextManager[None]:
        """Somebody has this block device open meanwhile."""

    @property
    @abstractmethod
    def real_xl(self) -> str:
        """Xen's own xl."""

    @abstractmethod
    def now(self) -> float:
        """Seconds that only grow."""

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Let time pass."""

    def do(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """A function of the product, on this host. Raises what it raises."""
        with self._installed():
            return function(*args, **options)

    def refuses(self, function: Callable[..., Any], *args: Any, **options: Any) -> CommandFailed:
        """The same where a program must fail; how it did."""
        with pytest.raises(CommandFailed) as caught:
            self.do(function, *args, **options)
        return caught.value

    @contextmanager
    def _installed(self) -> Iterator[None]:
        def run(
            argv: list[str], timeout: float = 10.0, ok: tuple[int, ...] | None = (0,), stdin: None = None
        ) -> Result:
            # emulated hosts are slow: the product's limits aren't what is tested here
            result = self.run(argv, max(timeout, LONG))
            if ok is not None and result.status not in ok:
                raise CommandFailed(argv, result.status, result.stderr or result.stdout, timeout)
            return result

        def read(path: str, *_: object, **__: object) -> io.StringIO:
            return io.StringIO(self.read_file(path))

        with ExitStack() as stack:
            ports = {
                "run": run,
                "time": Clock(self),
                "size_of": self.size_of,
                "real_xl": lambda: self.real_xl,
            }
            for module in _PORTS:
                for name, value in ports.items():
                    if name in vars(module):
                        stack.enter_context(mock.patch.object(module, name, value))
            for module in (barrier, proc):
                stack.enter_context(mock.patch.object(module, "open", read, create=True))
            yield


class Host(Machine):
    """One of the two hosts of a world."""

    world: World

    def now(self) -> float:
        return self.world.now()

    def pause(self, seconds: float) -> None:
        self.world.pause(seconds)

    # -- what a world implements --------------------------------------------------------

    @abstractmethod
    def open_device(self, writing: bool) -> str:
        """Open the resource's device and close it again: '' or what the kernel says."""

    @abstractmethod
    def write(self, block: int, number: int) -> None:
        """The application writes a block (0 to 7); returns once it is acknowledged."""

    @abstractmethod
    def burst(self) -> None:
        """Many acknowledged writes to other blocks, which a slow link needs seconds for."""

    @abstractmethod
    def write_behind_burst(self, block: int, number: int) -> None:
        """Both, with no pause between: the write is acknowledged while the burst is under way."""

    @abstractmethod
    def on_disk(self, block: int) -> int:
        """The number that the volume under DRBD holds there, 0 for none."""

    @abstractmethod
    def answer_fencing(self, status: int) -> None:
        """From here on the fence-peer handler ends so (1, broken, unless told)."""

    @abstractmethod
    def fence_calls(self) -> int:
        """How often DRBD has called it."""

    @abstractmethod
    def play(self, steps: str) -> str:
        """The results of these steps on xenstore (storeplay.py), both as JSON."""

    @abstractmethod
    def call(self, function: str, *args: Any) -> Any:
        """What ``xenhelper.MODULE.FUNCTION`` returns in a process of its own on this host; plain
        values only."""

    @abstractmethod
    def create(self) -> int:
        """``xl create`` of web1, whose disk our block script serves; xl's exit status."""

    @abstractmethod
    def migrate(self, name: str, to: Host) -> int:
        """``xl migrate``; its exit status."""

    @abstractmethod
    def fail_scripts(self) -> None:
        """From here on the block script's ``add`` fails."""

    @abstractmethod
    def script_calls(self) -> list[str]:
        """``add|remove PARAMS NAME`` of each call of the block script, in order."""

    # -- what follows from it -----------------------------------------------------------

    def steps(self, *steps: list[Any]) -> list[Any]:
        """Steps on xenstore: ``[connection, method, arguments…]`` each; what each returned."""
        results: list[Any] = json.loads(self.play(json.dumps(steps)))
        return results

    def hold_open(self) -> AbstractContextManager[None]:
        """Somebody has the resource's device open meanwhile."""
        return self.holding(f"/dev/drbd{MINOR}")

    def adm(self, *words: str) -> Result:
        """``drbdadm`` as the product calls it, with only the VM's file in view."""
        return self.run(["drbdadm", "-c", bringup.vm_file(VM), *words])

    def state(self) -> events.Resource:
        """The kernel's state of the resource, by the product's reading."""
        state = self.state_or_none()
        assert state is not None, f"{RESOURCE} isn't up on {self.name}"
        return state

    def state_or_none(self) -> events.Resource | None:
        return self.do(events.one, RESOURCE)

    def settings(self) -> show.Settings:
        """What the resource runs with."""
        settings = self.do(show.one, RESOURCE)
        assert settings is not None, f"{RESOURCE} isn't up on {self.name}"
        return settings

    def net(self) -> tuple[str, bool]:
        """(protocol, two-primaries) that the resource runs with."""
        settings = self.settings()
        return settings.protocol, settings.two_primaries

    def set_net(self, protocol: str, two_primaries: bool) -> None:
        settings = self.settings()
        self.do(verbs.net_options, settings.local, settings.remote, protocol, two_primaries)

    def promote(self) -> None:
        self.do(verbs.primary, MINOR)

    def demote(self) -> None:
        self.do(verbs.secondary, MINOR)

    def generations(self) -> tuple[int, ...]:
        """(current, bitmap, two of history) without the bit that says Primary."""
        return self.do(verbs.uuids, MINOR)
