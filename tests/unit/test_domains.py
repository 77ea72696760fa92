"""Domains and the xl processes at work on them."""

from pathlib import Path

import pytest

from xenhelper import paths
from xenhelper.xen import domains

CAPTURED = Path(__file__).parent / "captured"


def test_a_listing_with_uuids_is_read() -> None:
    text = (CAPTURED / "xl-list.txt").read_text()
    found = domains.parse(text[text.index("UUID                            Reason") - 80 :])
    assert [(d.name, d.domid, d.memory_mib) for d in found] == [("web1", 1, 128)]


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))

    def make(pid: int, stdin: str, *words: str) -> None:
        folder = tmp_path / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "cmdline").write_text("\0".join(words) + "\0")
        (folder / "fd" / "0").symlink_to(stdin)

    make(1, "/dev/null", "/sbin/init")
    return make


def test_a_receiver_counts_until_it_only_watches_its_domain(process) -> None:  # type: ignore[no-untyped-def]
    assert not domains.migrating("web1")
    process(20, "/dev/null", "/usr/lib/xen-4.20/bin/xl", "migrate-receive")
    assert not domains.migrating("web1")
    process(21, "pipe:[77]", "/usr/lib/xen-4.20/bin/xl", "migrate-receive")
    assert domains.migrating("web1")


def test_a_sender_counts_for_its_own_vm(process) -> None:  # type: ignore[no-untyped-def]
    process(30, "/dev/null", "xl", "migrate", "web1", "bob")
    assert domains.migrating("web1")
    assert not domains.migrating("web2")
