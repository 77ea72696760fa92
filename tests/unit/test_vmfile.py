"""The VM config on both hosts: when it is sent, and where it may be stored."""

from pathlib import Path

import pytest

from xenhelper import paths, vmfile
from xenhelper.xen import vmconfig


def sent(text: str, agreed: str = "") -> vmfile.Sent:
    return vmfile.Sent(vmconfig.checksum(text), text, agreed)


def test_when_the_peers_config_is_replaced() -> None:
    block = vmconfig.compose("name='a'\n", "a", ("bob", "alice"), [])
    agreed = vmconfig.checksum("agreed")

    def call(there: vmfile.Sent, before: str, after: str) -> bool:
        return vmfile.must_send("/x", there, before, after, agreed, "bob")

    assert call(vmfile.Sent(), "a", block)
    assert not call(sent(block), "a", block)
    assert call(sent("agreed"), "changed", block)
    assert call(sent("name='a'\n"), "name='a'\n", block)
    assert call(sent(vmconfig.compose("name='a'\n", "a", ("bob", "alice"), ["x"])), "q", block)
    assert call(sent("theirs", agreed=vmconfig.checksum("theirs")), "q", block)
    with pytest.raises(vmfile.Conflict) as caught:
        call(sent("name='b'\n"), "name='a'\n", block)
    assert "-name='b'" in caught.value.diff and "+name='a'" in caught.value.diff


def test_where_a_peer_may_store_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for folder in ("etc/xen/auto", "etc/xen/scripts", "srv", "etc/cron.d"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/xen/link").symlink_to("/etc/passwd")
    (tmp_path / "way").symlink_to("srv")
    for good in ("/etc/xen/web1", "/etc/xen/web1.cfg", "/etc/xen/auto/web1", "/srv/web1.cfg"):
        assert vmfile.storable(good), good
    for bad in (
        "/etc/xen/scripts/block",
        "/etc/xen/xl.conf",
        "/etc/xen/oxenstored.conf",
        "/etc/xen/link",
        "/etc/xen/../passwd",
        "/etc/cron.d/x",
        "/srv/x",
        "/srv/.cfg",
        "etc/xen/x",
        "/etc/xen/no/x",
        "/way/x.cfg",
        "/etc/xen/",
        "/etc/xen/a\nb",
        "/etc/xen/auto",
    ):
        assert not vmfile.storable(bad), bad


def test_a_stored_config_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    (tmp_path / "a.cfg").write_text("x")
    (tmp_path / "a.cfg").chmod(0o640)
    vmfile.store("/a.cfg", "new")
    vmfile.store("/b.cfg", "new", 0o4777)
    assert (tmp_path / "a.cfg").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "b.cfg").stat().st_mode & 0o7777 == 0o666
