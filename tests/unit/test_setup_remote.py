"""Pairing: the other host over ssh, with or without the package, and what is typed for it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenhelper import paths
from xenhelper.cli import setup as command
from xenhelper.errors import PeerFailed, UsageError, XenhelperError
from xenhelper.run import Result
from xenhelper.setup import remote

Answer = Callable[[str, str, int], None]


@pytest.fixture
def ssh(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Sets what the next ssh prints and how it ends."""

    def set_answer(stdout: str, stderr: str, status: int) -> None:
        monkeypatch.setattr(remote, "run", lambda *_, **__: Result(status, stdout, stderr))

    return set_answer


def test_ssh_failures_say_what_to_type(ssh: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    ssh("", "root@bob: Permission denied (publickey).\n", 255)
    with pytest.raises(XenhelperError, match="Permission denied.*no ssh key here: `ssh-keygen -t ed25519`"):
        remote.Remote("bob").handle({"op": "facts"})
    (tmp_path / "root/.ssh").mkdir(parents=True)
    (tmp_path / "root/.ssh/id_dsa.pub").write_text("ssh-dss 'A' $(reboot)\n")
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPp4h2ZWrhQ0lzzyfYPNq5lXX7k1J8rC6rVfE0kQHJ5d"
    (tmp_path / "root/.ssh/id_ed25519.pub").write_text(f"{key} root@alice (a comment)\n")
    with pytest.raises(XenhelperError, match="Permission denied.*paste on bob, as root: `") as denied:
        remote.Remote("bob").handle({"op": "facts"})
    line = str(denied.value).split("`")[1].replace("/root/.ssh", f"{tmp_path}/there")
    subprocess.run(["sh", "-c", line], check=True)
    subprocess.run(["sh", "-c", line], check=True)
    there = tmp_path / "there/authorized_keys"
    assert there.read_text() == f"{key} root@{os.uname().nodename}\n" * 2
    assert there.parent.stat().st_mode & 0o777 == 0o700
    ssh("", "Host key verification failed.\n", 255)
    with pytest.raises(XenhelperError, match="verification failed; log in once by that name"):
        remote.Remote("bob").handle({"op": "facts"})
    ssh("", "ssh: Could not resolve hostname bob", 255)
    with pytest.raises(XenhelperError, match="see that `ssh root@bob` works"):
        remote.Remote("bob").handle({"op": "facts"})
    ssh("", "bash: /usr/sbin/xenhelper: No such file", 127)
    with pytest.raises(XenhelperError, match="bob has no xenhelper; there: apt install"):
        remote.Remote("bob").handle({"op": "facts"})
    ssh("Traceback", "boom", 1)
    with pytest.raises(XenhelperError, match="setup there failed: boom"):
        remote.Remote("bob").handle({"op": "facts"})
    ssh("motd\n" + json.dumps({"error": "x is wrong", "do": "mend it", "exit": 3}), "", 0)
    with pytest.raises(PeerFailed, match="^bob: x is wrong; mend it") as caught:
        remote.Remote("bob").handle({"op": "facts"})
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("typed", ["-oProxyCommand=x", "user@bob", "a b", "", "root@", "bob;id"])
def test_odd_peers_never_reach_ssh(typed: str) -> None:
    with pytest.raises(UsageError):
        remote.target(typed)


@pytest.mark.parametrize("text", ["10.0.0.1", ",10.0.0.1", "10.0.0.1,"])
def test_half_a_link_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="LOCAL,REMOTE"):
        command._link(text)


def test_a_peer_without_the_package_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deb = tmp_path / "xenhelper.deb"
    deb.write_bytes(b"the package")
    seen: list[tuple[str, bytes]] = []

    def run(argv: list[str], stdin: bytes = b"", **_: Any) -> Result:
        if argv[:2] == ["ssh", "-G"]:
            return Result(0, "port 22\n", "")
        seen.append((argv[-1], stdin))
        if "apt-get" in argv[-1]:
            return Result(0, "", "")
        if len(seen) == 1:
            return Result(127, "", "xenhelper: not found")
        return Result(0, json.dumps({"ok": {"host": "bob"}}), "")

    monkeypatch.setattr(remote, "run", run)
    one = remote.Remote("bob")
    args = command_args(["bob"])
    with pytest.raises(remote.NotInstalled, match="add --package"):
        command._facts_there(one, args)
    seen.clear()
    assert command._facts_there(one, command_args(["bob", "--package", str(deb)])) == {"host": "bob"}
    assert seen[1][1] == b"the package" and "apt-get -q -y install" in seen[1][0]
    seen.clear()
    with pytest.raises(remote.NotInstalled, match="without --dry-run"):
        command._facts_there(one, command_args(["bob", "--dry-run", "--package", str(deb)]))
    assert len(seen) == 1


def command_args(words: list[str]) -> Any:
    from xenhelper.cli import main

    return main.parser_of("setup").parse_args(words)
