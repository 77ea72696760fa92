"""xl's own reading of a config: what the shim builds on before anything is created."""

from __future__ import annotations

import pytest

from xenhelper.xen import vmconfig

from .world import Machine

CONFIG = """\
name = "web1"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
memory = 96
disk = ['phy:/dev/vg0/web1-root,xvda,w', 'format=raw,vdev=xvdb,access=ro,target=/dev/vg0/web1-swap']
vif = ['bridge=xenbr0']
"""
REPLICATED = "script=block-xenhelper,vdev=xvda,access=rw,target=web1-xvda"


def read(machine: Machine, text: str, *overrides: str) -> vmconfig.Parsed:
    path = machine.write_file("/etc/xen/contract.cfg", text)
    return machine.do(vmconfig.dry_run, machine.real_xl, path, overrides)


def fails(machine: Machine, path: str) -> vmconfig.DryRunFailed:
    with pytest.raises(vmconfig.DryRunFailed) as caught:
        machine.do(vmconfig.dry_run, machine.real_xl, path)
    return caught.value


def test_disks_as_xl_reads_them(machine: Machine) -> None:
    parsed = read(machine, CONFIG)
    assert (parsed.name, parsed.guest_type, parsed.bridges) == ("web1", "pvh", ("xenbr0",))
    assert "/var/lib/xenlab/vmlinuz" in parsed.files
    first, second = parsed.disks
    assert (first["pdev_path"], first["vdev"], first["format"]) == ("/dev/vg0/web1-root", "xvda", "raw")
    assert first["readwrite"] == 1
    assert (second["pdev_path"], second["vdev"]) == ("/dev/vg0/web1-swap", "xvdb")
    assert not second.get("readwrite")


def test_the_last_disk_line_wins(machine: Machine) -> None:
    parsed = read(machine, CONFIG + f"disk = ['{REPLICATED}']\n")
    (disk,) = parsed.disks
    assert (disk["pdev_path"], disk["script"], disk["vdev"]) == ("web1-xvda", "block-xenhelper", "xvda")


def test_the_command_line_wins_over_the_file(machine: Machine) -> None:
    parsed = read(machine, CONFIG, vmconfig.override([REPLICATED]))
    assert [disk["pdev_path"] for disk in parsed.disks] == ["web1-xvda"]


def test_our_block_reads_as_the_same_vm_with_other_disks(machine: Machine) -> None:
    before = read(machine, CONFIG)
    specs = [vmconfig.spec(vmconfig.replicated(disk, f"web1-{disk['vdev']}")) for disk in before.disks]
    after = read(machine, vmconfig.compose(CONFIG, "web1", ("alice", "bob"), specs))
    assert vmconfig.difference(before, after, {"xvda": "web1-xvda", "xvdb": "web1-xvdb"}) == ""


def test_each_reading_draws_another_uuid(machine: Machine) -> None:
    one, other = (read(machine, CONFIG).tree["c_info"]["uuid"] for _ in range(2))
    assert one != other


@pytest.mark.parametrize("text", ['name = "x', "name = [\n"], ids=["string", "list"])
def test_a_syntax_error_is_1(machine: Machine, text: str) -> None:
    error = fails(machine, machine.write_file("/etc/xen/contract.cfg", text))
    assert error.status == 1
    assert "config parsing error" in error.stderr


def test_a_config_without_a_name_is_1(machine: Machine) -> None:
    path = machine.write_file("/etc/xen/contract.cfg", CONFIG.replace('name = "web1"\n', ""))
    error = fails(machine, path)
    assert (error.status, "Domain name must be specified." in error.stderr) == (1, True)


def test_a_config_that_is_not_there_is_3(machine: Machine) -> None:
    error = fails(machine, "/etc/xen/nosuch.cfg")
    assert error.status == 3
    assert "No such file or directory" in error.stderr
