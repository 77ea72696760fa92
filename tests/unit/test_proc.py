"""/proc/drbd, and the DRBD module behind it."""

from pathlib import Path

import pytest

from xenhelper import paths
from xenhelper.drbd import proc
from xenhelper.errors import Refused

CAPTURED = Path(__file__).parent / "captured"


def captured(name: str) -> str:
    return (CAPTURED / f"{name}.txt").read_text()


def test_proc_drbd() -> None:
    version, states = proc.parse(captured("proc-drbd-inconsistent-both-alice"))
    assert version == "8.4.11"
    state = states[1000]
    assert (state.role, state.peer_role, state.disk, state.peer_disk) == (
        "Secondary",
        "Secondary",
        "Inconsistent",
        "Inconsistent",
    )
    assert state.talks
    assert proc.parse(captured("proc-drbd-syncing-alice"))[1][1000].talks
    assert not proc.parse(captured("proc-drbd-disconnected-guest-writing-alice"))[1][1000].talks
    assert proc.parse(" 0: cs:Unconfigured\n") == ("", {})


@pytest.mark.parametrize(("text", "words"), [("version: 9.2.1 (api)\n", "9.2.1"), ("", "no DRBD module")])
def test_an_untested_or_missing_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    monkeypatch.setattr(proc, "run", lambda *_, **__: None)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/drbd").write_text(text)
    with pytest.raises(Refused, match=words):
        proc.require_module()
