"""Reach the peer before there is a channel: over root's own ssh, as `xl migrate` does."""

import glob
import json
import os
import re
from typing import Any

from xenhelper import __version__, names, paths
from xenhelper.errors import CommandFailed, PeerFailed, UsageError, XenhelperError
from xenhelper.peer import messages
from xenhelper.run import run
from xenhelper.setup.half import agent

# a public key's type and base64 (sshd(8), AUTHORIZED_KEYS): it is printed for a shell
_PUBLIC = re.compile(r"[a-z0-9@.-]{4,60} [A-Za-z0-9+/]{40,1900}={0,2}")
COMMAND = "/usr/sbin/xenhelper setup-half"


def target(typed: str) -> tuple[str, int]:
    """(ssh destination, its port) for what was typed: a name, an alias, root@name, an
    address. Raises UsageError."""
    user, at, name = typed.rpartition("@")
    if not name or name.startswith("-") or not names.valid_host(name) or (at and user != "root"):
        raise UsageError(f"{typed[:80]!r} is no host", "name the peer as ssh knows it")
    port = 22
    try:
        for line in run(["ssh", "-G", "--", name], timeout=10).stdout.splitlines():
            if line.startswith("port "):
                port = int(line.split()[1])
    except (CommandFailed, ValueError):
        pass  # the connection itself will say what is wrong
    return f"root@{name}", port


class NotInstalled(XenhelperError):
    """The peer has no xenhelper yet; :meth:`Remote.install` can change that."""


class Remote:
    """The peer's half of setup. One bounded ssh for each request."""

    def __init__(self, typed: str) -> None:
        self.typed = typed
        self.destination, self.port = target(typed)

    def handle(self, request: dict[str, Any], timeout: float = 60.0) -> dict[str, Any]:
        """half.handle there. Raises XenhelperError, PeerFailed with the line from there."""
        argv = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10"]
        argv += ["--", self.destination, COMMAND]
        try:
            data = json.dumps(request).encode()
            result = run(argv, timeout=timeout, ok=None, stdin=data, env=agent())
        except CommandFailed as error:
            raise XenhelperError(f"{self.typed} gave no answer within {timeout:g} s", "try again") from error
        if result.status == 255:
            said = _last(result.stderr).rstrip(".")
            do = f"see that `ssh {self.destination}` works from here; `xl migrate` needs it too"
            if "denied" in said:
                do = _let_in(self.typed)
            elif "verification" in said:
                do = f"log in once by that name, `ssh {self.destination}`, and look at the key it shows"
            raise XenhelperError(f"no ssh to {self.destination}: {said}", do)
        if result.status in (126, 127):
            raise NotInstalled(
                f"{self.typed} has no xenhelper",
                f"there: apt install ./xenhelper_{__version__}_all.deb",
            )
        try:
            answer = messages.decode(result.stdout.strip().rpartition("\n")[2].encode())
        except XenhelperError:
            raise XenhelperError(
                f"{self.typed}: setup there failed: {_last(result.stderr or result.stdout)}"
            ) from None
        try:
            return messages.result(self.typed, answer)
        except PeerFailed as error:
            where = "" if error.what.startswith(self.typed) else f"{self.typed}: "
            raise PeerFailed(where + error.what, error.do, error.exit_code) from None

    def install(self, package: str) -> None:
        """Copy the package file ``package`` there and have apt install it. Raises XenhelperError."""
        try:
            with open(package, "rb") as file:
                data = file.read()
        except OSError as error:
            raise UsageError(f"can't read {package}: {error.strerror}", "name the package's .deb") from None
        # root's own file, which _apt may read
        script = (
            'set -e; f=$(mktemp --suffix=.deb); trap \'rm -f "$f"\' EXIT; chmod 644 "$f"; cat >"$f"; '
            'DEBIAN_FRONTEND=noninteractive apt-get -q -y install "$f" >&2'
        )
        argv = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10"]
        result = run([*argv, "--", self.destination, script], timeout=900, ok=None, stdin=data, env=agent())
        if result.status:
            raise XenhelperError(
                f"{self.typed}: installing {package} there failed: {_last(result.stderr)}",
                f"there: apt install ./xenhelper_{__version__}_all.deb",
            )


def _let_in(typed: str) -> str:
    """What lets this host's root in there, where no password does (sshd's default for root):
    one line to paste. A key is needed here first; `xl migrate` uses it, too."""
    for path in sorted(glob.glob(paths.ROOT + "/root/.ssh/id_*.pub")):
        try:
            with open(path, encoding="ascii") as file:
                key = " ".join(file.read(2000).split()[:2])
        except (OSError, UnicodeDecodeError):
            continue
        if _PUBLIC.fullmatch(key):
            return (
                f"paste on {typed}, as root: `install -d -m 700 /root/.ssh && echo '{key} "
                f"root@{os.uname().nodename}' >>/root/.ssh/authorized_keys`, then run this again"
            )
    return "root has no ssh key here: `ssh-keygen -t ed25519`, then run this again for what to paste there"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"
