"""xl's configs: how they are read and rewritten, and what may differ afterwards."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenhelper import paths
from xenhelper.errors import XenhelperError
from xenhelper.xen import vmconfig

CAPTURED = Path(__file__).parent / "captured"


def captured(name: str) -> str:
    return (CAPTURED / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", ["many-syntaxes", "original"])
def test_each_captured_disk_is_written_as_xl_read_it(name: str) -> None:
    parsed = vmconfig.parse(captured(f"xl-create-dryrun-{name}"))
    assert parsed.name == "web1" and parsed.disks
    for disk in parsed.disks:
        words = vmconfig.spec(disk).split(",")
        assert f"vdev={disk['vdev']}" in words
        assert words[-1] == f"target={disk['pdev_path']}"
        assert ("devtype=cdrom" in words) == bool(disk.get("is_cdrom"))
        assert ("access=ro" in words) == (not disk.get("readwrite") and not disk.get("is_cdrom"))
        assert ("direct-io-safe" in words) == bool(disk.get("direct_io_safe"))
        assert ("discard" in words) == (disk.get("discard_enable") == "True")
        assert (f"script={disk.get('script')}" in words) == ("script" in disk)


def test_what_the_vm_needs_elsewhere() -> None:
    parsed = vmconfig.parse(captured("xl-create-dryrun-original"))
    assert parsed.files == ("/var/lib/xenlab/vmlinuz", "/var/lib/xenlab/guest.img")
    assert parsed.bridges == ("xenbr0",)
    assert parsed.guest_type == "pvh"


def test_an_attribute_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(XenhelperError, match="'future'"):
        vmconfig.spec({"vdev": "xvda", "future": 1})


config_texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=80).filter(
    lambda text: vmconfig.BEGIN not in text
)


@given(config_texts, config_texts)
def test_the_block_goes_in_and_comes_out_without_a_trace(text: str, after: str) -> None:
    whole = vmconfig.compose(text, "web1", ("bob", "alice"), ["vdev=xvda,target=web1-xvda", "a'b\\c"])
    assert vmconfig.split(whole) == (text, vmconfig.Block("web1", True))
    rest, block = vmconfig.split(whole + after)
    assert block == vmconfig.Block("web1", True)
    assert rest.startswith(text) and rest.endswith(after)


def test_bytes_of_any_encoding_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    raw = b"# caf\xe9 \xff\nname='x'"
    (tmp_path / "x.cfg").write_bytes(raw)
    text = vmconfig.read_file("/x.cfg")
    assert vmconfig.to_bytes(vmconfig.split(vmconfig.compose(text, "x", ("bob", "alice"), []))[0]) == raw


def test_an_edited_or_damaged_block_is_noticed() -> None:
    whole = vmconfig.compose("name='web1'\n", "web1", ("bob", "alice"), ["vdev=xvda,target=a"])
    assert vmconfig.split(whole.replace("target=a", "target=b"))[1] == vmconfig.Block("web1", False)
    for broken in (whole.replace(vmconfig.END, ""), whole + whole, whole.replace("checksum", "sum")):
        with pytest.raises(XenhelperError, match="damaged"):
            vmconfig.split(broken)


def test_the_quick_check_finds_the_mark_that_compose_writes() -> None:
    from xenhelper import create

    text = vmconfig.compose("name='web1'\n", "web1", ("bob", "alice"), [])
    whole = text.encode()
    assert create._sha256(whole) == vmconfig.checksum(text)
    start = whole.rfind(create._MARK)
    assert start > 0 and whole[start + len(create._MARK) :].startswith(b"web1, ")


@pytest.mark.parametrize(
    ("text", "touches"),
    [
        ("disk=['x']", True),
        ("disk += ['x']", True),
        ("memory=1; disk = []", True),
        ("memory=1\n\tname='b'", True),
        ("memory=512", False),
        ("kernel='/disk/name=x'", False),
        ("diskless=1", False),
        ("extra='root=/dev/xvda'", False),
    ],
)
def test_settings_that_may_change_disks(text: str, touches: bool) -> None:
    assert vmconfig.touches_disks([text]) is touches


def parsed(disks: list[dict[str, Any]], **tree: Any) -> vmconfig.Parsed:
    full = {"c_info": {"name": "web1", "uuid": str(id(disks))}, "disks": disks, **tree}
    return vmconfig.Parsed("web1", tuple(disks), full)


def test_only_the_expected_difference_passes() -> None:
    one = {"vdev": "xvda", "pdev_path": "/dev/vg0/a", "format": "raw", "readwrite": 1}
    two = {"vdev": "xvdb", "pdev_path": "/x.img", "format": "qcow2", "readwrite": 1}
    before = parsed([one, two], nics=[{"bridge": "xenbr0"}])
    new = {**one, "pdev_path": "web1-xvda", "script": "block-xenhelper"}
    good = {"nics": [{"bridge": "xenbr0"}]}
    resources = {"xvda": "web1-xvda"}
    assert vmconfig.difference(before, parsed([new, two], **good), resources) == ""
    assert vmconfig.difference(before, parsed([new, {**two, "readwrite": 0}], **good), resources)
    assert vmconfig.difference(before, parsed([{**new, "readwrite": 0}, two], **good), resources)
    assert vmconfig.difference(before, parsed([{**new, "pdev_path": "x"}, two], **good), resources)
    assert vmconfig.difference(before, parsed([new], **good), resources)
    assert vmconfig.difference(before, parsed([new, two], nics=[]), resources)
