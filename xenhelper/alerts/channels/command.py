"""Any program: JSON on its standard input, subject and text in its environment."""

import json

from xenhelper.alerts.message import Message
from xenhelper.alertsettings import Alerts
from xenhelper.run import run


def configured(settings: Alerts) -> bool:
    """A program is given."""
    return bool(settings.command)


def where(settings: Alerts) -> str:
    """The program."""
    return settings.command[0]


def send(message: Message, settings: Alerts) -> None:
    """Taken when it exits 0 within 45 s. Raises CommandFailed."""
    # one variable may hold 128 KiB (execve(2), MAX_ARG_STRLEN)
    env = {
        "XENHELPER_HOST": message.host,
        "XENHELPER_SUBJECT": message.subject,
        "XENHELPER_TEXT": message.text[:30000],
    }
    run(list(settings.command), timeout=45, stdin=json.dumps(message.json()).encode(), env=env)
