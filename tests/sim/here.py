"""The world that runs, and the process that runs in it at this moment."""

from typing import Any

from tests.sim.kernel import Killed, Process

W: Any = None  # the world, which puts itself here


def me() -> Process:
    process: Process = W.loop.current
    if process.dead:
        raise Killed
    return process
