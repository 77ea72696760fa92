"""Pairing: what is in the way on a host, and on the link between two."""

from pathlib import Path

import pytest

from xenhelper import paths
from xenhelper.setup import obstacles


def test_what_is_in_the_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    assert obstacles.warnings("alice") == []
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "drbd.service").touch()
    (tmp_path / "etc/xen").mkdir()
    (tmp_path / "etc/xen/old.cfg").write_text("disk = ['drbd:web,xvda,w']\n")
    (tmp_path / "etc/xen/older.cfg").write_text("disk = ['script=block-drbd,vdev=xvda,target=web']\n")
    (tmp_path / "etc/xen/new.cfg").write_text("# 'drbd:web,xvda,w'\ndisk = ['phy:/dev/vg0/drbd,xvda,w']\n")
    said = obstacles.warnings("alice")
    assert "drbd.service" in said[0] and "wfc-timeout" in said[0]
    assert [line.split()[1] for line in said[1:]] == ["/etc/xen/old.cfg", "/etc/xen/older.cfg"]


def test_two_ends_of_a_link_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    (tmp_path / "sys/class/net/eth1").mkdir(parents=True)
    (tmp_path / "sys/class/net/eth1/mtu").write_text("9000\n")
    (tmp_path / "sys/class/net/eth1/speed").write_text("-1\n")  # no carrier
    assert obstacles.link("eth1") == {"mtu": 9000, "speed": 0}
    said = obstacles.of_link({"mtu": 9000, "speed": 10000}, {"mtu": 1500, "speed": 100}, ("alice", "bob"))
    assert "9000 on alice and 1500 on bob" in said[0] and "100 Mbit/s" in said[1]
    assert obstacles.of_link({"mtu": 1500, "speed": 0}, {"mtu": 1500, "speed": 1000}, ("a", "b")) == []
