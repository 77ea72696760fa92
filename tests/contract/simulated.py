"""The simulated hosts of tests/sim, driven from outside: a command is a process there."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.lab.bare import MINOR, RESOURCE, VM
from tests.sim import shims, store, system, world, xlcommands
from tests.sim.end import End
from tests.sim.kernel import Process
from tests.sim.world import World as Simulation
from xenhelper.run import Result

from . import storeplay
from .world import Host, World


class SimulatedWorld(World):
    """``simulation`` with nothing going wrong by chance: a test says what does."""

    def __init__(self, seed: int = 1) -> None:
        self.simulation = Simulation(seed, {VM: 1})
        self.simulation.hang = self.simulation.loss = 0.0
        self.simulation.skip_remove = self.simulation.flaky = 0.0
        self.pair = self.simulation.pairs[RESOURCE]
        self.fencing: dict[str, int] = {}
        self.fence_calls: list[str] = []
        self.failing: set[str] = set()
        self.script_calls: list[tuple[str, str]] = []
        self.simulation.fence_peer = self._fence_peer  # type: ignore[method-assign]
        self.simulation.block_script = self._block_script  # type: ignore[method-assign]
        self.alice, self.bob = (SimulatedHost(self, name) for name in world.HOSTS)
        self.wait_in_sync()

    def now(self) -> float:
        return self.simulation.loop.now

    def pause(self, seconds: float) -> None:
        self.simulation.loop.run(self.now() + seconds)

    def cut_link(self) -> None:
        self.simulation.link.cut()

    def heal_link(self) -> None:
        self.simulation.link.slow = False
        self.simulation.link.heal()

    def replug_link(self) -> None:
        self.simulation.link.heal()

    def crash(self, host: Host) -> None:
        assert isinstance(host, SimulatedHost)
        self.simulation.power_off(host.host)
        self.pause(1.0)
        host.host.power = True  # without what the product does at boot
        host.host.booted = self.now()

    def slow_link(self) -> None:
        # a burst is under way for longer than a few commands take, whatever the seed
        self.simulation.link.slow, self.simulation.link.thin = True, 0.5

    def _fence_peer(self, end: End, done: Callable[[int, int, int], None]) -> None:
        name = end.host.name
        self.fence_calls.append(name)
        status = self.fencing.get(name, 1)
        self.simulation.loop.at(0.05, done, status, end.meetings, end.incarnation)

    def _block_script(self, parent: Process, host: Any, command: str, base: str) -> Process:
        """What bare.SCRIPT does on a real host."""
        script = Process(self.simulation, host, f"block {command}", lambda: self._script(host, command, base))
        script.parent = parent
        return script.start(0.03)

    def _script(self, host: Any, command: str, base: str) -> int:
        domain = host.domains[int(base.split("/")[2])]
        self.script_calls.append((host.name, f"{command} {host.store.get(base + '/params')} {domain.name}"))
        if command == "remove":
            for _ in range(10):
                if shims.sim_run(["drbdsetup", "secondary", str(MINOR)], 60.0, ok=None).status == 0:
                    return 0
                self.simulation.loop.current.block(1.0)
            return 1
        if host.name in self.failing:
            return 1
        if shims.sim_run(["drbdsetup", "primary", str(MINOR)], 60.0, ok=None).status != 0:
            return 1
        host.store.put(f"{base}/physical-device", f"93:{MINOR:x}")
        return 0


class SimulatedHost(Host):
    """One of its hosts."""

    def __init__(self, contract: SimulatedWorld, name: str) -> None:
        self.world: SimulatedWorld = contract
        self.name = name
        self.host = contract.simulation.hosts[name]
        self.end = contract.pair.ends[self.host.index]

    def process(self, name: str, action: Callable[[], Any], seconds: float = 60.0) -> Any:
        """What ``action`` returns or raises as a process of this host."""
        process = Process(self.world.simulation, self.host, name, action).start()
        loop = self.world.simulation.loop
        loop.run(loop.now + seconds, lambda: process.status is not None)
        assert process.status is not None, f"{name} on {self.name} doesn't end within {seconds:g} s"
        if process.error is not None:
            raise process.error
        return process.result

    def run(self, argv: list[str], timeout: float = 60.0) -> Result:
        result: Result = self.process(argv[0], lambda: shims.sim_run(argv, timeout, ok=None), timeout + 1)
        return result

    def read_file(self, path: str) -> str:
        text: str = self.process("cat", lambda: system.sim_open(path).read())
        return text

    def read_link(self, path: str) -> str:
        target: str = self.process("readlink", lambda: system.Os().readlink(path))
        return target

    def size_of(self, path: str) -> int:
        raise NotImplementedError("tests/sim has no LVM; test_lvm.py uses the hosts of tests/unit/fakes")

    @property
    def real_xl(self) -> str:
        return xlcommands.XL

    def open_device(self, writing: bool) -> str:
        def attempt() -> str:
            mine = system.Os()
            flags = mine.O_RDWR if writing else mine.O_RDONLY  # type: ignore[attr-defined]
            try:
                mine.close(mine.open(f"/dev/drbd{MINOR}", flags))
            except OSError as error:
                return str(error.strerror)
            return ""

        return str(self.process("open", attempt))

    def write_file(self, path: str, text: str) -> str:
        self.host.files.put(path, text.encode())
        return path

    @contextmanager
    def holding(self, path: str) -> Iterator[None]:
        assert path == f"/dev/drbd{MINOR}", "tests/sim has no other device"
        device = system.Device(self.end)
        yield
        device.close()

    def write(self, block: int, number: int) -> None:
        answers: list[str] = []
        self.end.write(block, number, answers.append)
        self.world.until(lambda: answers, f"block {block} to be acknowledged", 60)

    def burst(self) -> None:
        for number in range(6):
            self.write(7, 900 + number)

    def write_behind_burst(self, block: int, number: int) -> None:
        self.burst()
        self.write(block, number)

    def on_disk(self, block: int) -> int:
        return self.end.data[block]

    def answer_fencing(self, status: int) -> None:
        self.world.fencing[self.name] = status

    def fence_calls(self) -> int:
        return self.world.fence_calls.count(self.name)

    def play(self, steps: str) -> str:
        results = self.process("play", lambda: storeplay.play(json.loads(steps), store.Client))
        return json.dumps(results)

    def call(self, function: str, *args: Any) -> Any:
        module, _, name = function.rpartition(".")

        def action() -> Any:
            return getattr(importlib.import_module(f"xenhelper.{module}"), name)(*args)

        with shims.installed():
            return self.process(function, action)

    def create(self) -> int:
        return int(self.xl("create", VM))

    def migrate(self, name: str, to: Host) -> int:
        return int(self.xl("migrate", name, to.name))

    def xl(self, *words: str) -> Any:
        simulation = self.world.simulation
        return self.process("xl", lambda: simulation.exec_xl(simulation.loop.current, list(words)), 600.0)

    def fail_scripts(self) -> None:
        self.world.failing.add(self.name)

    def script_calls(self) -> list[str]:
        return [call for host, call in self.world.script_calls if host == self.name]
