"""Every test that asks for ``world`` or ``machine`` runs twice: simulated and on real hosts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .world import Host, Machine, World


@pytest.fixture(
    params=["simulated", pytest.param("lab", marks=[pytest.mark.lab, pytest.mark.layer("replicated")])]
)
def world(request: pytest.FixtureRequest) -> World:
    """Two hosts with one resource, in sync and Secondary on both. The simulated ones' chance
    comes from ``CONTRACT_SEED``."""
    if request.param == "lab":
        from .real import RealWorld

        return RealWorld(request.getfixturevalue("lab"))
    from .simulated import SimulatedWorld

    return SimulatedWorld(int(os.environ.get("CONTRACT_SEED", "1")))


@pytest.fixture
def alice(world: World) -> Host:
    """The host that is Primary where one is."""
    return world.alice


@pytest.fixture
def bob(world: World) -> Host:
    """The other one."""
    return world.bob


@pytest.fixture(
    params=["simulated", pytest.param("lab", marks=[pytest.mark.lab, pytest.mark.layer("booted")])]
)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A host with vg0 (8 GB) and vg1 (60 MB), both empty."""
    if request.param == "lab":
        from .real import RealMachine

        return RealMachine(request.getfixturevalue("lab").alice)
    from .faked import FakedMachine

    return FakedMachine(tmp_path / "world")
