"""Mail through an SMTP server."""

import smtplib
import ssl

from xenhelper.alerts import compose
from xenhelper.alerts.message import Message
from xenhelper.alertsettings import Alerts
from xenhelper.errors import XenhelperError

_SECONDS = 20.0  # for each answer of the server


def configured(settings: Alerts) -> bool:
    """Addresses are given; a missing server is an error that sending tells."""
    return bool(settings.smtp_to)


def where(settings: Alerts) -> str:
    """The addresses, and how."""
    return f"{', '.join(settings.smtp_to)} through {settings.smtp_server or 'no server'}"


def send(message: Message, settings: Alerts) -> None:
    """Raises XenhelperError or OSError."""
    if not settings.smtp_server:
        raise XenhelperError("[alerts] smtp_to is given, smtp_server isn't")
    sender = settings.smtp_from or f"xenhelper@{compose.full_name()}"
    mail = compose.mail(message, sender, settings.smtp_to)
    host, _, port = settings.smtp_server.rpartition(":")
    if not host or port.endswith("]"):
        host, port = settings.smtp_server, "465" if settings.smtp_tls == "tls" else "25"
    host = host.strip("[]")
    try:
        with _connect(host, int(port), settings.smtp_tls) as server:
            if settings.smtp_user:
                server.login(settings.smtp_user, _password(settings.smtp_password_file))
            refused = server.send_message(mail, sender, list(settings.smtp_to))
    except smtplib.SMTPException as error:
        raise XenhelperError(f"{settings.smtp_server}: {_said(error)}") from error
    if refused:
        raise XenhelperError(f"{settings.smtp_server} refused {', '.join(refused)}")


def _connect(host: str, port: int, tls: str) -> smtplib.SMTP:
    context = ssl.create_default_context() if tls != "none" else None
    me = compose.full_name()
    if tls == "tls":
        return smtplib.SMTP_SSL(host, port, me, timeout=_SECONDS, context=context)
    server = smtplib.SMTP(host, port, me, timeout=_SECONDS)
    if tls == "starttls":
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
    return server


def _password(path: str) -> str:
    if not path:
        raise XenhelperError("[alerts] smtp_user is given, smtp_password_file isn't")
    with open(path, encoding="utf-8") as file:
        return file.readline().rstrip("\r\n")


def _said(error: smtplib.SMTPException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
