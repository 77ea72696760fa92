"""Whether news of a failed disk would leave this host: mdadm's monitor, its MAILADDR, and the
host's full name, which mail servers want to resolve. Judged only where there are arrays."""

import os
import re
import socket
from typing import Any

from xenhelper import paths
from xenhelper.doctor.finding import HINT, WARNING, Finding
from xenhelper.doctor.pair import Pair

_CONF = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")


def look() -> dict[str, Any]:
    """``arrays``: names of md arrays; ``monitor``, ``mailaddr``, ``mta``, ``fqdn``."""
    return {
        "arrays": _arrays(_text("/proc/mdstat")),
        "monitor": _monitored(),
        "mailaddr": mail_address("".join(_text(path) for path in _CONF)),
        "mta": os.access(paths.ROOT + "/usr/sbin/sendmail", os.X_OK),
        "fqdn": _full_name(),
    }


def _text(path: str) -> str:
    try:
        with open(paths.ROOT + path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _arrays(text: str) -> list[str]:
    return re.findall(r"^(md\S+) : active", text, re.M)


def mail_address(text: str) -> str:
    """MAILADDR of mdadm.conf(5), '' when it isn't set (keywords in any case)."""
    found = re.search(r"^\s*MAILADDR\s+(\S+)", text, re.M | re.I)
    return found[1] if found else ""


def _monitored() -> bool:
    """Whether an mdadm process watches the arrays (whatever started it)."""
    for pid in filter(str.isdigit, os.listdir(paths.ROOT + "/proc")):
        try:
            with open(f"{paths.ROOT}/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        program = os.path.basename(words[0]) if words else b""
        if program == b"mdadm" and any(word in (b"--monitor", b"-F", b"--follow") for word in words):
            return True
    return False


def _full_name() -> str:
    """The host's name with its domain as it resolves here; '' when it has none."""
    name = socket.getfqdn()
    return name if "." in name.rstrip(".") and not name.startswith("localhost") else ""


def check(pair: Pair) -> list[Finding]:
    """Findings of both hosts."""
    found = []
    for facts in pair.both:
        mail, host = facts.mail, facts.host
        if not mail.get("arrays"):
            continue
        if not mail.get("monitor"):
            found.append(
                Finding(
                    WARNING,
                    host,
                    None,
                    f"{host}: nothing watches the RAID arrays ({', '.join(mail['arrays'])}): no "
                    "mdadm --monitor",
                    "`systemctl start mdmonitor` (Debian's mdadm package)",
                )
            )
        if not mail.get("mailaddr"):
            found.append(
                Finding(
                    WARNING,
                    host,
                    None,
                    f"{host}: mdadm.conf has no MAILADDR: nobody hears of a failed disk",
                    "add `MAILADDR you@example.org` to /etc/mdadm/mdadm.conf",
                )
            )
        elif not mail.get("mta"):
            found.append(
                Finding(
                    WARNING,
                    host,
                    None,
                    f"{host}: no /usr/sbin/sendmail, so mdadm's mail to {mail['mailaddr']} goes nowhere",
                    "`apt install dma` or another mail transport",
                )
            )
        if not mail.get("fqdn"):
            found.append(
                Finding(
                    HINT,
                    host,
                    None,
                    f"{host}: its name doesn't resolve to one with a domain; many mail servers refuse "
                    "such mail",
                    f"put `ADDRESS {host}.example.org {host}` in /etc/hosts",
                )
            )
    return found
