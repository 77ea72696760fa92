"""A resource's first minutes on a host: its file tried, metadata, up, forced to be Primary.

Simulated by the stand-ins of tests/unit/fakes, which the story of a create is tested on.
"""

from __future__ import annotations

import pytest

from tests.lab.bare import ADDRESSES
from xenhelper import volumes
from xenhelper.drbd import adm, events, proc, resfile, verbs

from .world import Machine

VM, NAME, MINOR, PORT = "web9", "web9-xvda", 1009, 7809
VOLUME, META = f"/dev/vg0/{NAME}", f"/dev/vg0/{NAME}{volumes.META_SUFFIX}"
EXTENT = 4 << 20


def text(secret: str = "ab" * 16) -> str:
    one, other = (resfile.End(host, address, VOLUME, META) for host, address in ADDRESSES.items())
    return resfile.render(VM, [resfile.Entry(NAME, MINOR, PORT, secret, (one, other))])


def up(machine: Machine) -> None:
    """As the product makes it, up to the first ``up``; the other host has none of it."""
    machine.run(["modprobe", "drbd"])
    for path, size in ((VOLUME, 4 * EXTENT), (META, EXTENT)):
        machine.do(
            volumes.create, "vg0", path.rsplit("/", 1)[-1], size, volumes.tags_for(VM, NAME, MINOR, PORT)
        )
    machine.do(adm.create_md, MINOR, META)
    file = machine.write_file(f"/etc/drbd.d/{VM}.res", text())
    result = machine.run(["drbdadm", "-c", file, "up", NAME])
    assert result.status == 0, result.stderr


@pytest.mark.core
@pytest.mark.expects("split-brain")  # so DRBD calls a forced promotion alone
def test_new_metadata_is_inconsistent_until_it_is_forced(machine: Machine) -> None:
    up(machine)
    state = machine.do(events.one, NAME)
    assert state is not None
    assert (state.role, state.disk, state.minor) == ("Secondary", "Inconsistent", MINOR)
    assert (state.connection, state.peer_role) == ("Connecting", "Unknown")
    error = machine.refuses(verbs.primary, MINOR)
    assert error.status == 17
    assert verbs.NOT_UP_TO_DATE in error.stderr
    machine.do(verbs.primary, MINOR, force=True)
    state = machine.do(events.one, NAME)
    assert state is not None and (state.role, state.disk) == ("Primary", "UpToDate")
    machine.do(verbs.secondary, MINOR)
    shown = machine.do(proc.read)[1][MINOR]
    assert (shown.connection, shown.role, shown.disk) == ("WFConnection", "Secondary", "UpToDate")


@pytest.mark.expects("split-brain")  # so DRBD calls a forced promotion alone
def test_what_was_forced_once_is_not_inconsistent_again(machine: Machine) -> None:
    up(machine)
    machine.do(verbs.primary, MINOR, force=True)
    machine.do(verbs.secondary, MINOR)
    assert machine.run(["drbdsetup", "down", NAME]).status == 0
    assert machine.do(events.one, NAME) is None
    assert MINOR not in machine.do(proc.read)[1]
    assert machine.run(["drbdadm", "-c", machine.path(f"/etc/drbd.d/{VM}.res"), "up", NAME]).status == 0
    state = machine.do(events.one, NAME)
    assert state is not None and state.disk in ("Consistent", "UpToDate")


def test_volumes_beneath_a_resource_are_in_use(machine: Machine) -> None:
    up(machine)
    for path in (VOLUME, META):
        assert machine.run(["lvremove", "--yes", path.removeprefix("/dev/")]).status == 5
        assert machine.size_of(path) > 0
    assert machine.run(["drbdsetup", "down", NAME]).status == 0
    for volume in machine.do(volumes.volumes):
        machine.do(volumes.remove, volume, *volumes.tags_for(VM, NAME, MINOR, PORT))
    assert machine.do(volumes.volumes) == []


def test_what_is_not_there_has_the_statuses_of_the_kernel(machine: Machine) -> None:
    assert machine.run(["drbdsetup", "down", "nosuch"]).status == 0
    for command in ("primary", "secondary"):
        assert machine.run(["drbdsetup", command, "4711"]).status == 10
    assert machine.do(events.one, "nosuch") is None
    assert machine.do(events.snapshot) == {}


def test_a_new_file_is_tried_before_it_is_used(machine: Machine) -> None:
    new = machine.write_file(f"/etc/drbd.d/{VM}.res.new", text())
    assert machine.do(adm.check, VM, new) == ""


def test_a_new_file_that_does_not_parse_is_its_own_fault(machine: Machine) -> None:
    new = machine.write_file(f"/etc/drbd.d/{VM}.res.new", text().replace("protocol A;", "bogus;"))
    error = machine.refuses(adm.check, VM, new)
    assert error.status == 10
    assert f"{VM}.res.new" in error.stderr


def test_a_foreign_file_that_does_not_parse_is_only_told(machine: Machine) -> None:
    machine.write_file("/etc/drbd.d/zz.res", "resource zz { bogus; }\n")
    new = machine.write_file(f"/etc/drbd.d/{VM}.res.new", text())
    told = machine.do(adm.check, VM, new)
    assert "zz.res" in told and "correct it" in told


def test_metadata_needs_its_volume(machine: Machine) -> None:
    error = machine.refuses(adm.create_md, MINOR, "/dev/vg0/nosuch_xhmeta")
    assert (error.status, "No such file or directory" in error.stderr) == (20, True)
