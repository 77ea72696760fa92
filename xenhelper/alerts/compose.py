"""A message as a mail, for the two channels that send one."""

import socket
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import default
from email.utils import formatdate

from xenhelper import insync
from xenhelper.alerts.message import Message


def mail(message: Message, sender: str, to: Sequence[str]) -> EmailMessage:
    """Sent again, it has the same Message-ID. Without ``sender`` the mail server puts one in."""
    made = EmailMessage(default)
    if sender:
        made["From"] = f"xenhelper on {message.host} <{sender}>"
    made["To"] = ", ".join(to)
    made["Subject"] = message.subject
    made["Date"] = formatdate(insync.seconds(message.time))
    made["Message-ID"] = f"<{message.id}@{message.host}.xenhelper>"
    # no out-of-office answers (RFC 3834)
    made["Auto-Submitted"] = "auto-generated"
    made["X-Xenhelper-Alerts"] = ", ".join(f"{n.kind}.{n.key}={n.manner}" for n in message.notices)
    made.set_content(message.text)
    return made


def full_name() -> str:
    """This host's full name where it has one that a mail server may take."""
    name = socket.getfqdn()
    return name if "." in name and not name.startswith("localhost") else socket.gethostname()
