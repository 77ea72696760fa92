"""The sender: each channel is told once, by real receivers; failures wait for nobody."""

import email
import email.policy
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.receivers import Receiver
from xenhelper import alerts, config, log, paths
from xenhelper.alerts import bell, channels, decide, sender, store
from xenhelper.alertsettings import Alerts
from xenhelper.cli import main

NOW = 1_800_000_000.0


class Host:
    """One host's alerts: a clock, settings, what was logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW
        self.settings = Alerts(mail=())
        self.said: list[tuple[str, str]] = []
        self.sender = sender.Sender(lambda: self.now, lambda body: body())

    def rounds(self, seconds: float, step: float = 1.0) -> None:
        """Let the sender look for so long."""
        end = self.now + seconds
        while self.now <= end:
            self.sender.round()
            self.now += step

    def program(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    for name in ("STATE", "RUN", "LOCKS", "CRASH_AT", "CONFIG"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))

    class Loaded:
        @property
        def alerts(self) -> Alerts:
            return made.settings

    monkeypatch.setattr(config, "load", lambda: Loaded())
    monkeypatch.setattr(log, "event", lambda kind, text, *_, **__: made.said.append((kind, text)))
    monkeypatch.setattr(store.time, "time", lambda: made.now)
    return made


@pytest.fixture
def smtp() -> Iterator[Receiver]:
    receiver = Receiver("smtp").start()
    yield receiver
    receiver.stop()


@pytest.fixture
def webhook() -> Iterator[Receiver]:
    receiver = Receiver("webhook").start()
    yield receiver
    receiver.stop()


def lost(resource: str = "web1-xvda") -> None:
    alerts.raise_(
        "connection", resource, f"{resource}: no connection to bob", "check bob", vm="web1", resource=resource
    )


def states(receiver: Receiver) -> list[str]:
    return [alert["state"] for taken in receiver.taken for alert in taken["json"]["alerts"]]


def body(mail: dict[str, Any]) -> str:
    return str(email.message_from_string(mail["text"], policy=email.policy.default).get_content())


def with_all(host: Host, smtp: Receiver, webhook: Receiver) -> str:
    """Every channel in use; returns the folder in which the two programs leave what they got."""
    out = str(host.folder / "out")
    os.mkdir(out)
    command = host.program(
        "tell", f'#!/bin/sh\ncat >{out}/json\nprintf "%s" "$XENHELPER_SUBJECT" >{out}/subject\n'
    )
    program = host.program("sendmail", f'#!/bin/sh\nprintf "%s\\n" "$@" >{out}/argv\ncat >{out}/mail\n')
    host.settings = Alerts(
        mail=("root",), sendmail=program, smtp_to=("admin@example.org", "on@call.example"),
        smtp_server=f"127.0.0.1:{smtp.port}", smtp_tls="none", smtp_from="xh@alice.example",
        webhook=f"http://127.0.0.1:{webhook.port}/hook?token=x", command=(command, "arg"),
    )  # fmt: skip
    return out


def test_every_channel_gets_it_once_and_its_end(host: Host, smtp: Receiver, webhook: Receiver) -> None:
    out = Path(with_all(host, smtp, webhook))
    lost()
    host.rounds(4)
    (mail,) = smtp.taken
    assert mail["to"] == ["admin@example.org", "on@call.example"]
    parsed = email.message_from_string(mail["text"])
    assert parsed["Subject"] == f"[{os.uname().nodename}] web1-xvda: no connection to bob"
    assert parsed["Auto-Submitted"] == "auto-generated" and "xh@alice.example" in parsed["From"]
    assert "WARNING: web1-xvda: no connection" in mail["text"] and "do: check bob" in mail["text"]
    (post,) = webhook.taken
    (alert,) = post["json"]["alerts"]
    assert (alert["kind"], alert["state"], alert["vm"], alert["until"]) == (
        "connection",
        "raised",
        "web1",
        None,
    )
    assert json.loads((out / "json").read_text())["alerts"] == [alert]
    assert (out / "subject").read_text() == parsed["Subject"]
    assert (out / "argv").read_text().split() == ["-i", "--", "root"]
    assert "Message-ID" in (out / "mail").read_text()
    assert store.queued() == [] and alerts.is_active("connection", "web1-xvda")
    host.rounds(600, 60)
    assert len(smtp.taken) == len(webhook.taken) == 1

    host.now = NOW + 700
    alerts.clear("connection", "web1-xvda", "Connected")
    host.rounds(4)
    assert len(smtp.taken) == 2 and states(webhook) == ["raised", "over"]
    text = body(smtp.taken[1])
    assert "OVER: web1-xvda: no connection" in text and "(11 min 40 s): Connected" in text
    assert store.queued() == []


def test_it_goes_on_and_sleeps_when_all_is_told(host: Host, webhook: Receiver) -> None:
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/")
    lost()

    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        host.now += seconds
        if host.now > NOW + 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.sender.run(wait)
    assert states(webhook) == ["raised"] and os.listdir(store.path(store.QUEUE)) == []
    # it looks when the alert is due, and then once a minute
    assert waits[0] == pytest.approx(decide.GATHER, abs=0.01) and set(waits[1:]) == {60.0}


def test_what_is_all_but_due_goes_with_what_is(host: Host, webhook: Receiver) -> None:
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/")
    lost("web1-xvda")
    host.now += 0.9
    lost("web1-xvdb")
    host.now += 0.2
    assert host.sender.round() is None
    (post,) = webhook.taken
    assert len(post["json"]["alerts"]) == 2


def test_it_sleeps_until_a_channel_that_fails_is_due(host: Host) -> None:
    host.settings = Alerts(mail=(), command=("/nonexistent/program",))
    lost()
    waits = []
    while host.now < NOW + 60:
        wait = host.sender.round()
        assert wait is not None
        waits.append(wait)
        host.now += wait
    # tried after 5, 15 and 30 s; a changed configuration is looked for every 5 s
    assert len(waits) < 20 and max(waits) == 5.0


def test_a_change_rings_and_an_end_of_sending_too(host: Host, webhook: Receiver) -> None:
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/")
    listener = bell.Bell()
    assert not rung(listener)
    lost()
    assert rung(listener) and not rung(listener)
    lost()
    assert not rung(listener), "no news"
    host.sender = sender.Sender(lambda: host.now)
    host.now += 2
    host.sender.round()
    listener.wait(20.0)
    assert host.sender.round() is None and len(webhook.taken) == 1


def rung(listener: bell.Bell) -> bool:
    begin = time.monotonic()
    listener.wait(0.3)
    return time.monotonic() - begin < 0.25


def test_a_bell_that_is_lost_is_made_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    bell.ring()  # nobody listens
    listener = bell.Bell()
    os.unlink(bell.path())
    Path(bell.path()).write_text("in its place")
    assert not rung(listener)
    bell.ring()
    assert rung(listener)
    for _ in range(66000):  # more than a pipe holds
        bell.ring()
    assert rung(listener)
    listener.close()
    monkeypatch.setattr(os, "mkfifo", lambda *_: (_ for _ in ()).throw(OSError(30, "read-only")))
    os.unlink(bell.path())
    deaf = bell.Bell()
    begin = time.monotonic()
    deaf.wait(0.2)
    assert time.monotonic() - begin >= 0.2
    deaf.wait(0.0)


def test_what_happens_together_comes_in_one_message(host: Host, webhook: Receiver) -> None:
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/")
    for number in range(40):
        lost(f"vm{number}-xvda")
    alerts.raise_("disk", "vm1-xvda", "the disk fails", severity=alerts.CRITICAL)
    host.rounds(5)
    (post,) = webhook.taken
    assert len(post["json"]["alerts"]) == 41 and post["json"]["alerts"][0]["kind"] == "disk"
    assert post["json"]["subject"].endswith("the disk fails (and 40 more)")


def test_short_trouble_while_nobody_can_be_told_isnt_lost(host: Host, webhook: Receiver) -> None:
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/")
    lost()
    host.now += 0.5
    alerts.clear("connection", "web1-xvda", "Connected")
    host.rounds(4)
    assert states(webhook) == ["passed"]


def test_one_that_fails_is_retried_and_the_others_hear_of_it(
    host: Host, smtp: Receiver, webhook: Receiver
) -> None:
    with_all(host, smtp, webhook)
    host.settings = replace(host.settings, command=(), mail=())
    smtp.answers += ["451 later"] * 4
    lost()
    host.rounds(300)
    assert len(smtp.taken) == 1 and "no connection" in smtp.taken[0]["text"]
    kinds = [alert["kind"] for taken in webhook.taken for alert in taken["json"]["alerts"]]
    assert kinds == ["connection", "channel", "channel"], "raised, and over once it takes messages"
    assert "451" in webhook.taken[1]["json"]["alerts"][0]["what"]
    assert [kind for kind, _ in host.said].count("alert-unsent") == 2
    assert store.queued() == []


def test_given_up_after_a_day(host: Host) -> None:
    host.settings = Alerts(mail=(), command=("/nonexistent/program",))
    lost()
    host.rounds(decide.GIVE_UP + 900, 300.0)
    assert any("given up after a day: web1-xvda: no connection" in text for _, text in host.said)
    assert store.queued() == []


def test_killed_after_it_was_taken_it_is_sent_again_with_the_same_id(
    host: Host, webhook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/")
    lost()
    host.now += 2
    with monkeypatch.context() as patch:
        patch.setattr(sender, "_mark", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            host.sender.round()
    sender.Sender(lambda: host.now, lambda body: body()).round()
    first, second = webhook.taken
    assert first["json"]["id"] == second["json"]["id"] == second["headers"]["X-Xenhelper-Id"]
    assert store.queued() == []


def test_a_change_while_it_is_sent_is_told_after(
    host: Host, webhook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/")
    real = channels.module("webhook").send

    def send(message: Any, settings: Alerts) -> None:
        real(message, settings)
        alerts.clear("connection", "web1-xvda", "Connected")

    monkeypatch.setattr(channels.module("webhook"), "send", send)
    lost()
    host.rounds(8)
    assert states(webhook) == ["raised", "over"] and store.queued() == []


def test_one_that_flaps_is_told_so_and_then_how_it_ended(host: Host, webhook: Receiver) -> None:
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/")
    for _ in range(30):
        lost()
        host.rounds(5)
        alerts.clear("connection", "web1-xvda", "Connected")
        host.rounds(5)
    assert states(webhook) == ["raised", "over"] * 3 + ["flaps"]
    host.rounds(decide.QUIET + 5)
    assert states(webhook)[7:] == ["over"] and store.queued() == []
    host.now += 3600
    lost()
    host.rounds(5)
    assert states(webhook)[8:] == ["raised"]


def test_no_more_an_hour_than_allowed_and_the_rest_in_one(host: Host, webhook: Receiver) -> None:
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/", per_hour=12)
    for number in range(30):
        lost(f"vm{number}-xvda")
        host.rounds(3)
    assert len(webhook.taken) == 3
    host.rounds(300)
    assert len(webhook.taken) == 4 and len(webhook.taken[3]["json"]["alerts"]) == 27
    assert len(states(webhook)) == 30


def test_a_slow_channel_holds_up_nobody(
    host: Host, webhook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    host.settings = Alerts(
        mail=(), webhook=f"http://127.0.0.1:{webhook.port}/", command=(host.program("slow", "#!/bin/sh\n"),)
    )
    monkeypatch.setattr(channels.module("command"), "send", lambda *_: go.wait(20))
    host.sender = sender.Sender(lambda: host.now)
    lost()
    host.now += 2
    for _ in range(200):
        host.sender.round()
        if webhook.taken and not host.sender.channels["webhook"].busy:
            break
        threading.Event().wait(0.02)
    alerts.clear("connection", "web1-xvda")
    host.now += 2
    for _ in range(200):
        host.sender.round()
        if len(webhook.taken) == 2:
            break
        threading.Event().wait(0.02)
    assert states(webhook) == ["raised", "over"] and host.sender.channels["command"].busy
    go.set()


def test_rubbish_in_the_queue_is_set_aside(host: Host) -> None:
    os.makedirs(store.path(store.QUEUE))
    Path(store.path(store.QUEUE, "rubbish")).write_text("x")
    assert host.sender.round() is None
    assert os.listdir(store.path(store.QUEUE)) == []


def test_a_broken_configuration_still_reaches_root(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise config.ConfigError("line 3: nonsense")

    monkeypatch.setattr(config, "load", fail)
    lost()
    host.rounds(3)
    assert host.sender.settings == Alerts() and any("line 3" in text for _, text in host.said)


def test_a_mended_configuration_is_taken_up_at_once(host: Host, webhook: Receiver) -> None:
    host.settings = Alerts(mail=(), webhook="http://127.0.0.1:1/")
    Path(paths.CONFIG).write_text("1")
    lost()
    host.rounds(60)
    host.settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/")
    Path(paths.CONFIG).write_text("22")
    host.rounds(3)
    assert "raised" in states(webhook)


@pytest.mark.parametrize("answer", ["404", "500", "302"])
def test_a_webhook_must_say_2xx(host: Host, webhook: Receiver, answer: str) -> None:
    webhook.answers.append(answer)
    settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/a?token=secret")
    said = sender.test(settings, "alice", NOW)["webhook"]
    assert answer in said and "secret" not in said and webhook.taken == []


def test_headers_of_a_webhook(host: Host, webhook: Receiver) -> None:
    file = host.folder / "headers"
    file.write_text("# token\nAuthorization: Bearer x:y\n\n")
    settings = Alerts(mail=(), webhook=f"http://127.0.0.1:{webhook.port}/", webhook_headers_file=str(file))
    assert sender.test(settings, "alice", NOW) == {"webhook": ""}
    assert webhook.taken[0]["headers"]["Authorization"] == "Bearer x:y"
    file.write_text("no header\n")
    assert "Name: value" in sender.test(settings, "alice", NOW)["webhook"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"smtp_server": ""}, "smtp_server isn't"),
        ({"smtp_tls": "starttls"}, "STARTTLS"),
        ({"smtp_user": "u"}, "smtp_password_file isn't"),
        ({"smtp_server": "127.0.0.1:1"}, "refused"),
    ],
)
def test_what_smtp_says_when_it_cant(host: Host, smtp: Receiver, changes: dict[str, str], why: str) -> None:
    base = Alerts(mail=(), smtp_to=("a@b",), smtp_server=f"127.0.0.1:{smtp.port}", smtp_tls="none")
    said = sender.test(replace(base, **changes), "alice", NOW)["smtp"]  # type: ignore[arg-type]
    assert why in said and smtp.taken == []


def test_the_command_tests_every_channel_and_lists(
    host: Host, smtp: Receiver, webhook: Receiver, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with_all(host, smtp, webhook)
    assert main.main(["alert", "--test"]) == 0
    out = capsys.readouterr().out
    assert out.count(": sent to ") == 4 and "token" not in out
    assert webhook.taken[0]["json"]["alerts"][0]["kind"] == "test"
    webhook.answers.append("500")
    assert main.main(["alert", "--test"]) == 1
    assert "webhook: failed" in capsys.readouterr().out
    assert main.main(["alert", "--test", "--dry-run"]) == 0 and len(webhook.taken) == 1
    capsys.readouterr()
    assert main.main(["alert"]) == 0 and "no alert" in capsys.readouterr().out
    lost()
    assert main.main(["alert"]) == 0 and "no connection to bob" in capsys.readouterr().out
    host.settings = Alerts(mail=())
    assert main.main(["alert", "--test"]) == 2
