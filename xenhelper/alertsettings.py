"""[alerts] of the configuration, checked."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Alerts:
    """Who is told; see xenhelper.conf.spec for each."""

    mail: tuple[str, ...] = ("root",)
    sendmail: str = "/usr/sbin/sendmail"
    smtp_to: tuple[str, ...] = ()
    smtp_server: str = ""
    smtp_tls: str = "starttls"
    smtp_from: str = ""
    smtp_user: str = ""
    smtp_password_file: str = ""
    webhook: str = ""
    webhook_headers_file: str = ""
    command: tuple[str, ...] = ()
    per_hour: int = 60
    stale_minutes: int = 30


DEFAULT = Alerts()


def build(section: Any) -> Alerts:
    """From a section that has passed the spec."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in section.items()
        if key in Alerts.__dataclass_fields__
    }
    return Alerts(**values)
