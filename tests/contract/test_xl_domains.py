"""Domains: listed, created, destroyed, migrated; and the block script's calls meanwhile.

The script is the least one: it promotes and demotes (tests/lab/bare.py), so that what is
tested is xl.
"""

from __future__ import annotations

import pytest

from tests.lab.bare import RESOURCE, VDEV, VM
from xenhelper import destination, names
from xenhelper.errors import Refused
from xenhelper.xen import description, domains

from .world import Host, World


def running(host: Host) -> list[str]:
    """Names of its domains."""
    return [domain.name for domain in host.do(domains.listing)]


def started(host: Host) -> domains.Domain:
    """web1, created there."""
    assert host.create() == 0
    (domain,) = host.do(domains.listing)
    return domain


def test_a_host_without_guests(alice: Host) -> None:
    assert alice.do(domains.listing) == []
    with pytest.raises(Refused, match="no running domain"):
        alice.do(description.describe, "nosuch")
    for command in ("list", "destroy", "migrate"):
        words = {"list": ["-l", "nosuch"], "destroy": ["nosuch"], "migrate": ["nosuch", "bob"]}[command]
        result = alice.run([alice.real_xl, command, *words])
        assert result.status == 1
        assert "nosuch is an invalid domain identifier" in result.stderr


def test_info_tells_what_a_destination_needs(alice: Host) -> None:
    info = alice.do(destination.xen_info)
    assert int(info["free_memory"]) > 0
    assert destination.can_migrate("pvh", info) == ""
    assert "shadow paging" in destination.can_migrate("pv", info)
    assert "dom0_mem=" in info["xen_commandline"]


@pytest.mark.core
def test_from_create_to_destroy(world: World, alice: Host) -> None:
    domain = started(alice)
    assert domain.name == VM and domain.domid > 0
    assert not (domain.suspended or domain.crashed)
    described = alice.do(description.describe, VM)
    assert (described.domid, described.uuid) == (domain.domid, domain.uuid)
    assert (described.name, described.vm, described.kind) == (VM, VM, "pvh")
    assert described.memory_kib >= domain.memory_mib << 10 > 0
    assert described.bridges == ("xenbr0",)
    (disk,) = described.disks
    assert (disk.vdev, disk.path, disk.writable, disk.managed) == (VDEV, RESOURCE, True, True)
    assert described.resources == [RESOURCE]
    assert alice.do(description.describe, str(domain.domid)) == described
    assert alice.script_calls() == [f"add {RESOURCE} {VM}"]
    assert alice.state().role == "Primary"
    base = f"backend/vbd/{domain.domid}"
    (devid,) = alice.steps(["a", "list", base])[0]
    assert alice.steps(["a", "read", f"{base}/{devid}/params"]) == [RESOURCE]
    assert alice.steps(["a", "read", f"{base}/{devid}/script"])[0].endswith("/block-xenhelper")
    assert alice.steps(["a", "read", f"/local/domain/{domain.domid}/name"]) == [VM]

    assert alice.run([alice.real_xl, "destroy", VM]).status == 0
    world.until(lambda: running(alice) == [], "the domain to be gone")
    assert alice.script_calls()[1:] == [f"remove {RESOURCE} {VM}"]
    assert alice.state().role == "Secondary"
    assert alice.steps(["a", "list", base], ["a", "read", f"/local/domain/{domain.domid}/name"]) == [[], None]


def test_a_second_create_leaves_the_first_alone(alice: Host) -> None:
    domain = started(alice)
    assert alice.create() == 3
    assert [(d.domid, d.uuid) for d in alice.do(domains.listing)] == [(domain.domid, domain.uuid)]
    assert alice.script_calls() == [f"add {RESOURCE} {VM}"]
    assert alice.state().role == "Primary"


def test_an_add_that_fails_fails_the_create(world: World, alice: Host) -> None:
    alice.fail_scripts()
    assert alice.create() == 3
    world.until(lambda: running(alice) == [], "the domain to be gone")
    # for the disk whose add failed, too
    assert [call.split()[0] for call in alice.script_calls()] == ["add", "remove"]
    assert alice.state().role == "Secondary"


def test_a_migration_renames_on_both_sides(world: World, alice: Host, bob: Host) -> None:
    before = started(alice)
    alice.set_net("C", True)
    world.until(lambda: bob.net() == ("C", True), "bob to be permitted")
    assert alice.migrate(VM, bob) == 0
    (after,) = bob.do(domains.listing)
    assert (after.name, after.uuid) == (VM, before.uuid)
    world.until(lambda: running(alice) == [], "the source's domain to be gone")
    assert bob.script_calls() == [f"add {RESOURCE} {VM}{names.INCOMING}"]
    assert alice.script_calls()[1:] == [f"remove {RESOURCE} {VM}{names.MIGRATED_AWAY}"]
    assert (alice.state().role, bob.state().role) == ("Secondary", "Primary")
    # what travelled is the domain's own config, script name and all
    assert bob.do(description.describe, VM).resources == [RESOURCE]


def test_a_destination_whose_add_fails_resumes_the_source(world: World, alice: Host, bob: Host) -> None:
    before = started(alice)
    bob.fail_scripts()
    assert alice.migrate(VM, bob) != 0
    (after,) = alice.do(domains.listing)
    assert (after.domid, after.name, after.uuid) == (before.domid, VM, before.uuid)
    assert not after.suspended
    world.until(lambda: running(bob) == [], "the copy to be gone")
    assert [call.split()[0] for call in bob.script_calls()] == ["add", "remove"]
    assert alice.script_calls() == [f"add {RESOURCE} {VM}"]
    assert (alice.state().role, bob.state().role) == ("Primary", "Secondary")
    world.until(lambda: alice.state().upper_pending == 0 and alice.state().in_sync, "the guest to write on")
