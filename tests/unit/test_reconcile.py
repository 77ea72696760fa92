"""The reconciler's round over all VMs: what it says and what it leaves alone in silence."""

from pathlib import Path
from typing import Any

import pytest

from xenhelper import halfopen, intents, paths, reconcile, statefile
from xenhelper.errors import Busy, Refused, XenhelperError
from xenhelper.xen import domains


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RESOURCES", "RUN", "LOCKS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    monkeypatch.setattr(domains, "listing", lambda: [])
    monkeypatch.setattr(intents, "all_open", lambda: [])
    for vm in ("db1", "web1"):
        statefile.write(f"{paths.RESOURCES}/{vm}-xvda", {"resource": f"{vm}-xvda", "vm": vm, "peer": "bob"})
    return tmp_path


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Busy("web1 is being set up from bob at this moment"), []),
        (Refused("web1 can't be done"), ["web1: web1 can't be done"]),
        (XenhelperError("drbdsetup failed"), ["web1: drbdsetup failed"]),
    ],
)
def test_who_is_at_work_is_no_trouble(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: XenhelperError, said: list[str]
) -> None:
    seen = []

    def one(vm: str, *rest: Any) -> list[str]:
        seen.append(vm)
        if vm == "web1":
            raise error
        return []

    monkeypatch.setattr(reconcile, "_vm", one)
    monkeypatch.setattr(halfopen, "drop", lambda peers, dry_run: [])
    assert reconcile.reconcile() == said
    assert seen == ["db1", "web1"]


def test_a_dead_ssh_is_looked_for_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []
    monkeypatch.setattr(halfopen, "drop", lambda peers, dry_run: order.append((peers, dry_run)) or [])
    monkeypatch.setattr(reconcile, "_vm", lambda vm, *rest: order.append(vm) or [])
    reconcile.reconcile()
    assert order == [(["bob"], False), "db1", "web1"]
