"""Local mail, through the sendmail program that every mail server for Debian brings."""

import os

from xenhelper import paths
from xenhelper.alerts import compose
from xenhelper.alerts.message import Message
from xenhelper.alertsettings import Alerts
from xenhelper.run import run


def configured(settings: Alerts) -> bool:
    """Addresses are given, and the program is there."""
    return bool(settings.mail) and os.access(paths.ROOT + settings.sendmail, os.X_OK)


def where(settings: Alerts) -> str:
    """The addresses, and how."""
    return f"{', '.join(settings.mail)} through {settings.sendmail}"


def send(message: Message, settings: Alerts) -> None:
    """Raises CommandFailed."""
    text = compose.mail(message, "", settings.mail).as_bytes()
    # -i: a line with a single dot is no end (sendmail(1) of postfix, exim and msmtp)
    run([paths.ROOT + settings.sendmail, "-i", "--", *settings.mail], timeout=45, stdin=text)
