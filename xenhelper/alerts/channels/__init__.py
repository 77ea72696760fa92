"""The ways to tell, one module each, with the same three names:

- ``configured(settings)``: whether [alerts] (and this host) asks for it;
- ``where(settings)``: to whom, in a few words;
- ``send(message, settings)``: raises XenhelperError or OSError when it wasn't taken.
  Ends within a minute.
"""

import importlib
from typing import Any

from xenhelper.alertsettings import Alerts

NAMES = ("mail", "smtp", "webhook", "command")


def module(name: str) -> Any:
    """The channel's module; imported only when it is used: smtplib and urllib are big."""
    return importlib.import_module(f"xenhelper.alerts.channels.{name}")


def configured(settings: Alerts) -> list[str]:
    """Names of the channels in use."""
    wanted = {
        "mail": settings.mail,
        "smtp": settings.smtp_to,
        "webhook": settings.webhook,
        "command": settings.command,
    }
    return [name for name in NAMES if wanted[name] and module(name).configured(settings)]
