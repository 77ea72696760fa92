"""Help, completion, versions, colour: what a person meets first."""

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from xenhelper.cli import main

ROOT = Path(__file__).parents[2]
VISIBLE = [name for name in main.commands() if main._module(name).HELP]


@pytest.mark.parametrize("command", VISIBLE)
def test_every_argument_is_explained_and_every_example_is_one(command: str) -> None:
    parser = main.parser_of(command)
    for action in parser._actions:
        assert action.help, f"{command}: {action.dest}"
    examples = getattr(main._module(command), "EXAMPLES", "")
    lines = re.findall(rf"^  xenhelper {command}\b(.*)$", examples, re.M)
    assert lines or command == "watch", f"{command} has no example"
    for line in lines:
        parser.parse_args(shlex.split(line, comments=True))
    assert examples in parser.format_help()


def test_the_version_names_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["xenhelper", "Xen", "Linux", "DRBD"]
    assert lines[2] == f"Linux {os.uname().release}"


@pytest.mark.parametrize(("more", "red"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_an_error_is_red_on_a_terminal_that_wants_it(more: dict[str, str], red: bool, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    env = {"PATH": "/usr/bin:/bin", "TERM": "xterm", "PYTHONPATH": str(ROOT), "XENHELPER_ROOT": str(tmp_path)}
    argv = [sys.executable, "-m", "xenhelper.cli.main", "forget", "web1"]
    done = subprocess.run(argv, env={**env, **more}, stderr=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    assert done.returncode == 1 and "isn't replicated" in said
    assert ("\x1b[31m" in said) == red


@pytest.fixture
def complete(tmp_path: Path) -> "object":
    script = (ROOT / "debian/xenhelper.bash-completion").read_text()
    for path in ("/var/lib/xenhelper", "/etc/xenhelper"):
        script = script.replace(path, str(tmp_path) + path)
    script = script.replace("cd /etc/xen ", f"cd {tmp_path}/etc/xen ")
    for name in ("web1", "db1"):
        (tmp_path / "var/lib/xenhelper/vms").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"var/lib/xenhelper/vms/{name}").touch()
        (tmp_path / "var/lib/xenhelper/resources").mkdir(exist_ok=True)
        (tmp_path / f"var/lib/xenhelper/resources/{name}-xvda").write_text(f"vm={name}\nvdev=xvd{name[0]}\n")
    (tmp_path / "etc/xenhelper").mkdir(parents=True)
    (tmp_path / "etc/xenhelper/xenhelper.conf").write_text(
        "[host]\nname = alice\n[peers]\n[[bob]]\n[[[volume_groups]]]\nvg0 = vg0\n"
    )
    (tmp_path / "var/lib/xenhelper/intents").mkdir()
    (tmp_path / "var/lib/xenhelper/intents/import-old9").touch()
    (tmp_path / "etc/xen").mkdir()
    (tmp_path / "etc/xen/old1.cfg").touch()
    (tmp_path / "a.cfg").touch()
    (tmp_path / "b.txt").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/xenhelper"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m xenhelper.cli.main "$@"\n')
    program.chmod(0o755)

    def words(line: str) -> set[str]:
        typed = line.split(" ")
        lines = [
            script,
            f"COMP_WORDS=({' '.join(shlex.quote(word) for word in typed)})",
            f"COMP_CWORD={len(typed) - 1}",
            'compopt() { :; }; _xenhelper; printf "%s\\n" "${COMPREPLY[@]}"',
        ]
        env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)], env=env, cwd=tmp_path, capture_output=True, text=True
        )
        assert not done.stderr, done.stderr
        return set(done.stdout.split())

    return words


def test_completion_offers_what_is_there(complete: "object") -> None:
    assert callable(complete)
    assert set(VISIBLE) <= complete("xenhelper ") and complete("xenhelper rec") == {"recover", "reconcile"}
    assert "resources-up" not in complete("xenhelper ")
    assert complete("xenhelper status ") == {"web1", "db1"} and complete("xenhelper forget w") == {"web1"}
    assert complete("xenhelper recover web1 --discard ") == {"alice", "bob"}
    assert complete("xenhelper recover web1 --d") == {"--discard", "--dry-run"}
    assert complete("xenhelper plan ") == {"a.cfg", "sub/", "bin/", "etc/", "var/"}
    assert complete("xenhelper grow web1 ") == {"xvdw"}
    assert complete("xenhelper replicate --from-peer d") == {"db1"}
    assert complete("xenhelper convert o") == {"old1"}
    assert complete("xenhelper import --undo ") == {"old9"}
    assert "root@localhost" in complete("xenhelper import root@lo")
    assert complete("xenhelper evacuate --r") == {"--return"}
