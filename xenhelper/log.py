"""The journal: one structured entry per action and decision, identifier ``xenhelper``.

Speaks journald's native protocol over its socket (systemd.io/JOURNAL_NATIVE_PROTOCOL),
since importing systemd-python costs the block script more than all its other work.
Never fails and never blocks: a host without a journal goes on without a log.
"""

import os

from xenhelper import paths, unixsocket

ERROR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7

# One MESSAGE_ID per kind of event (128 random bits, fixed for ever; `xenhelper log` reads them back)
KINDS = {
    "note": "5d0b7f0c2c5b4f1f9a6d1c8e7b3a0f10",
    "replicated": "0e3f6b5a94c84f3cb1d9f2a7c6e8d111",
    "added": "a4c1d2e3f5b647809c8b7a6d5e4f3212",
    "removed": "b7d8e9fa0b1c4d2e8f3a4b5c6d7e8f13",
    "refused": "c2e4a6b8d0f14325a7b9c1d3e5f70914",
    "window-open": "d3f5b7c9e1a24436b8cad2e4f6081a15",
    "window-granted": "e4a6c8d0f2b34547c9dbe3f507192b16",
    "window-closed": "f5b7d9e1a3c44658dae4f60718203c17",
    "fenced": "06c8eaf2b4d54769ebf507182a314d18",
    "reconciled": "17d9fb03c5e6487afc0618293b425e19",
    "beneath": "28ea0c14d6f7498b0d17293a4c536f1a",
    "split-brain": "4a0c2e36f8194b5d9f2e38506c7d8a1c",
    "io-error": "5b1d3f47092a4c6ea03f4961708e9b1d",
    "takeover": "6c2e50581a3b4d7fb1405a72819fac1e",
    "ceded": "7d3f61692b4c4e80c2516b8392a0bd1f",
    "autostart": "8e40727a3c5d4f91d3627c94a3b1ce20",
    "alert": "9f51838b4d6e4fa2e4738da5b4c2df21",
    "alert-over": "a062949c5e7f40b3f5849eb6c5d3e022",
    "alert-unsent": "b173a5ad6f805104a0965ac7d6c4e123",
    "drbd": "c284b6be70916215b1a76bd8e7d5f224",
    "half-open": "d395c7cf81a27326c2b87ce9f8e60325",
    "verify": "b173a5ad6f804c14a6958fc7d6e4f133",
    "failed": "39fb1d25e7084a9c1e283a4b5d64701b",
}


def event(kind: str, message: str, priority: int = INFO, **fields: str) -> None:
    """Log ``message``; ``vm="web1"`` becomes the field ``XENHELPER_VM`` and so on."""
    record = {
        "MESSAGE": message,
        "MESSAGE_ID": KINDS.get(kind, KINDS["note"]),
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "xenhelper",
        "XENHELPER_EVENT": kind,
    }
    for key, value in fields.items():
        record["XENHELPER_" + key.upper()] = value
    data = b""
    for key, value in record.items():
        raw = value.encode("utf-8", "replace")
        if b"\n" in raw:
            data += key.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
        else:
            data += key.encode() + b"=" + raw + b"\n"
    try:
        sock = unixsocket.new(unixsocket.DATAGRAM)
        try:
            sock.setblocking(False)
            sock.sendto(data, paths.ROOT + "/run/systemd/journal/socket")
        finally:
            sock.close()
    except OSError:
        if os.environ.get("XENHELPER_LOG_STDERR"):
            os.write(2, (message + "\n").encode())


def has_stderr() -> bool:
    """Whether what this process prints as errors goes to the journal (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"
