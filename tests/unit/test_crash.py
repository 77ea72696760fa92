"""Crash points: their names come from the code, and an armed one kills just there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xenhelper import crash, crashpoints, paths

ROOT = Path(__file__).parents[2]
STORY = """
from xenhelper import paths, intents, statefile
from xenhelper.run import run

def story():
    intents.write("grow", "web1", step="1")
    run(["/bin/true"])
    intents.write("grow", "web1", step="2")
    statefile.remove(intents.path("grow", "web1"))

story()
print("through")
"""


def play(root: Path, order: str, mode: int = 0o600) -> "subprocess.CompletedProcess[str]":
    package = root / "xenhelper"
    if not package.exists():
        package.symlink_to(ROOT / "xenhelper")
        (root / "run/xenhelper").mkdir(parents=True)
    if order:
        armed = root / "run/xenhelper/crash-at"
        armed.write_text(order + "\n")
        armed.chmod(mode)
    # the story plays in a module of the package, where steps have names
    runner = (
        "import sys, types, xenhelper.crashpoints as c\n"
        f"source = {STORY!r}\n"
        "found = c._Calls('story'); import ast; found.visit(ast.parse(source))\n"
        "calls = c._calls\n"
        "c._calls = lambda module: found if module == 'story' else calls(module)\n"
        "exec(compile(source, 'story.py', 'exec'), {'__name__': 'xenhelper.story'})\n"
    )
    env = {**os.environ, "XENHELPER_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", runner], env=env, capture_output=True, text=True, timeout=60)


def grown(root: Path) -> str:
    path = root / "var/lib/xenhelper/intents/grow-web1"
    return path.read_text() if path.exists() else ""


def test_nothing_armed_nothing_happens(tmp_path: Path) -> None:
    assert play(tmp_path, "").stdout == "through\n" and grown(tmp_path) == ""


@pytest.mark.parametrize(
    ("order", "left"),
    [
        ("before story:story:intents.write#1", ""),
        ("after story:story:intents.write#1", "step=1"),
        ("before story:story:run", "step=1"),
        ("before story:story:intents.write#2", "step=1"),
        ("after story:story:intents.write#2", "step=2"),
        ("before story:story:intents.write 2", "step=1"),
        ("before story:story:statefile.remove", "step=2"),
        ("after story:story:statefile.remove", ""),
    ],
)
def test_it_dies_just_there_and_once(tmp_path: Path, order: str, left: str) -> None:
    assert play(tmp_path, order).returncode == -signal.SIGKILL
    assert (left in grown(tmp_path)) if left else grown(tmp_path) == ""
    assert not (tmp_path / "run/xenhelper/crash-at").exists()
    assert play(tmp_path, "").stdout == "through\n"


def test_a_name_below_another_function_only(tmp_path: Path) -> None:
    assert play(tmp_path, "before story:story:run < hotplug:add").stdout == "through\n"
    assert play(tmp_path, "before story:story:run < story:story").returncode == -signal.SIGKILL


def test_a_file_that_others_may_write_counts_for_nothing(tmp_path: Path) -> None:
    assert play(tmp_path, "before story:story:run", 0o622).stdout == "through\n"


def test_the_list_is_complete_and_unambiguous() -> None:
    names = [
        point.name
        for module in crashpoints.modules()
        if module not in crashpoints.PORTS
        for point in crashpoints.points(module)
    ]
    assert len(names) == len(set(names))
    # one of each kind, from the stories that matter most
    for name in (
        "window:Window.open:intents.write",
        "window:Window.open:client.ask",
        "hotplug:_promote:verbs.primary",
        "hotplug:_publish:xenstore.write_all",
        "stepdown:step_down:verbs.secondary",
        "handover:grant:verbs.net_options#2",
        "takeover:_take:permits.grant_takeover",
        "provision:build:adm.create_md",
    ):
        assert name in names, name


def test_every_port_tells_of_its_steps() -> None:
    for module in ("run", "statefile", "peer/client", "xen/xenstore"):
        assert 'paths.crash("before")' in (ROOT / "xenhelper" / f"{module}.py").read_text(), module


def test_of_two_at_the_same_step_one_takes_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one goes on as if nothing were armed."""
    monkeypatch.setattr(paths, "CRASH_AT", str(tmp_path / "crash-at"))
    monkeypatch.setattr(crash, "_order", lambda: ("before", "a:b:c", 1))  # read before it was taken
    monkeypatch.setattr(crash, "_beneath", lambda frame, wanted: True)
    monkeypatch.setattr(crashpoints, "stack", lambda frame: ["a:b:c"])
    crash.at("before")
    assert list(tmp_path.iterdir()) == []
