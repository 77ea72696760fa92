"""The watcher and the sender as processes of their own, killed with -9 again and again: each
change is told once by mail and webhook, and in order."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.receivers import Receiver
from tests.unit.fakes.xenstored import FakeXenstored

CAPTURED = Path(__file__).parent / "captured"
CONFIG = """\
[host]
name = alice
management = 192.168.1.1
replication = 10.99.0.1
[peers]
[[bob]]
management = 192.168.1.2
replication = 10.99.0.2
[alerts]
mail =
smtp_to = admin@example.org
smtp_server = 127.0.0.1:{smtp}
smtp_tls = none
webhook = http://127.0.0.1:{webhook}/
per_hour = 3600
"""
LOST, WELL = "disconnected-guest-writing-alice", "connected-idle-alice"
# a flapping alert is told otherwise (test_alert_sender.py)
TIMES = 3


class Host:
    """A host's files, and what runs there."""

    def __init__(self, root: Path, smtp: Receiver, webhook: Receiver) -> None:
        self.root, self.smtp, self.webhook = root, smtp, webhook
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for folder in ("proc", "etc/xenhelper", "var/lib/xenhelper/resources", "run/xenstored"):
            (root / folder).mkdir(parents=True)
        (root / "etc/xenhelper/xenhelper.conf").write_text(
            CONFIG.format(smtp=smtp.port, webhook=webhook.port)
        )
        for vdev, minor in (("xvda", 1000), ("xvdb", 1001)):
            text = f"resource=web1-{vdev}\nvm=web1\nvdev={vdev}\nminor={minor}\npeer=bob\n"
            (root / f"var/lib/xenhelper/resources/web1-{vdev}").write_text(text)
        self.xenstored = FakeXenstored(str(root / "run/xenstored/socket"))
        self.link(WELL)

    def link(self, name: str) -> None:
        new = self.root / "proc/new"
        new.write_text((CAPTURED / f"proc-drbd-{name}.txt").read_text())
        new.rename(self.root / "proc/drbd")

    def keep_up(self) -> None:
        """What systemd does: the watcher always, the sender while the queue isn't empty."""
        queue = self.root / "var/lib/xenhelper/alerts/queue"
        for command, wanted in (("watch", True), ("alert-send", queue.is_dir() and any(queue.iterdir()))):
            process = self.processes.get(command)
            if wanted and (process is None or process.poll() is not None):
                argv = [sys.executable, "-m", "xenhelper.cli.main", command]
                env = {**os.environ, "XENHELPER_ROOT": str(self.root)}
                self.processes[command] = subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL)

    def kill(self, command: str) -> None:
        process = self.processes.pop(command, None)
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def states(self) -> dict[str, list[str]]:
        """What the webhook was told, by resource."""
        found: dict[str, list[str]] = {}
        for taken in self.webhook.taken:
            for alert in taken["json"]["alerts"]:
                found.setdefault(alert["key"], []).append(alert["state"])
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    smtp, webhook = Receiver("smtp").start(), Receiver("webhook").start()
    made = Host(tmp_path, smtp, webhook)
    yield made
    for command in list(made.processes):
        made.kill(command)
    made.xenstored.close()
    smtp.stop()
    webhook.stop()


def until(host: Host, condition: Callable[[], bool], kills: "list[float]") -> None:
    """Wait, and kill the watcher whenever one of these times (from now) has come."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 240, host.states()
        host.keep_up()
        if kills and time.monotonic() - began > kills[0]:
            kills.pop(0)
            host.kill("watch")
        time.sleep(0.1)


def test_killed_again_and_again(host: Host) -> None:
    order = random.Random(5)
    said: list[str] = []
    for _ in range(TIMES):
        for name, state in ((LOST, "raised"), (WELL, "over")):
            host.link(name)
            said.append(state)
            kills = sorted(order.uniform(0.2, 9.0) for _ in range(3))
            wanted = {"web1-xvda": said, "web1-xvdb": said}
            until(host, lambda wanted=wanted: host.states() == wanted, kills)
    host.kill("watch")
    host.keep_up()
    time.sleep(8)
    assert host.states() == {"web1-xvda": said, "web1-xvdb": said}
    headers = [line for mail in host.smtp.taken for line in mail["text"].split("\n") if "web1-xvd" in line]
    for state in ("raised", "over"):
        assert sum(line.count(f"connection.web1-xvda={state}") for line in headers) == TIMES
