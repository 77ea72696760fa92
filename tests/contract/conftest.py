"""Every test that asks for ``world`` runs twice: over tests/sim and over the real hosts."""

from __future__ import annotations

import pytest

from .world import Host, World


@pytest.fixture(
    params=["simulated", pytest.param("lab", marks=[pytest.mark.lab, pytest.mark.layer("replicated")])]
)
def world(request: pytest.FixtureRequest) -> World:
    """Two hosts with one resource, in sync and Secondary on both."""
    if request.param == "lab":
        from .real import RealWorld

        return RealWorld(request.getfixturevalue("lab"))
    from .simulated import SimulatedWorld

    return SimulatedWorld()


@pytest.fixture
def alice(world: World) -> Host:
    """The host that is Primary where one is."""
    return world.alice


@pytest.fixture
def bob(world: World) -> Host:
    """The other one."""
    return world.bob
