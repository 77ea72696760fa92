"""Saved images: one that is older than its disks stays out."""

import json
import time
from pathlib import Path

import pytest

from tests.unit.fakes.booting import Host, T, booting, there, times
from xenhelper import (
    paths,
    restore,
    statefile,
    xl,
)
from xenhelper.errors import Refused


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return booting(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("record", "peer", "why"),
    [
        (times(T - 900, T + 3), there(), ""),
        (times(T - 900, T + 3), None, ""),
        ({}, None, ""),
        (times(T + 60, T + 90), there(), "started after"),
        (times(T - 900, T + 3), there(**times(T + 60)), "ran on bob after"),
        (times(T - 900, T + 3), {"domains": ["web1"]}, "web1 runs on bob"),
        (times(T - 900, T + 4000), there(), "went on running"),  # save -c
        (times(T - 900), there(), "weren't let go"),  # save -c, then a crash
        (times(T - 900, T - 60), there(), "copied"),
    ],
)
def test_images_older_than_their_disks(
    record: dict[str, str], peer: dict[str, object] | None, why: str
) -> None:
    found = restore.stale(T, record, peer, "bob")
    assert (why in found) if why else found == ""


def image(path: Path, name: str = "web1", script: str = "/etc/xen/scripts/block-xenhelper") -> str:
    tree = {"c_info": {"name": name}, "disks": [{"pdev_path": "web1-xvda", "script": script}]}
    body = json.dumps(tree).encode() + b"\0"
    data = len(body).to_bytes(4, "little") + body
    head = restore._MAGIC + b"\x04\x03\x02\x01" + (1).to_bytes(4, "little") + bytes(4)
    path.write_bytes(head + len(data).to_bytes(4, "little") + data + b"memory")
    return str(path)


def test_the_shim_refuses_an_old_image_and_leaves_others_alone(host: Host, tmp_path: Path) -> None:
    saved = image(tmp_path / "web1")
    argv = ["-v", "restore", "-p", saved]
    assert restore.main(argv) == argv  # nothing is known against it
    now = time.time()
    record = statefile.read(f"{paths.VMS}/web1") or {}
    statefile.write(f"{paths.VMS}/web1", {**record, **times(now + 60)})
    for words in (argv, ["rest", saved], ["restore", "/etc/xen/web1.cfg", saved], ["restore", "-Q", saved]):
        with pytest.raises(Refused, match=r"can't be restored.*xl create /etc/xen/web1.cfg"):
            restore.main(words)
    for other in (image(tmp_path / "b", "other"), image(tmp_path / "c", script="block"), __file__, "/none"):
        assert restore.main(["restore", other]) == ["restore", other]
    assert restore.main(["restore", "--help"]) == ["restore", "--help"]


def test_the_shims_exit_code(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    statefile.write(f"{paths.VMS}/web1", {"vm": "web1", **times(now + 60)})
    assert xl.main(["restore", image(tmp_path / "web1")]) == 3
    assert "can't be restored" in capsys.readouterr().err
