"""Reach the peer before there is a channel: over root's own ssh, as `xl migrate` does."""

import json
from typing import Any

from xenhelper import __version__, names
from xenhelper.errors import CommandFailed, PeerFailed, UsageError, XenhelperError
from xenhelper.peer import messages
from xenhelper.run import run
from xenhelper.setup.half import agent

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
            said = _last(result.stderr)
            do = f"see that `ssh {self.destination}` works from here; `xl migrate` needs it too"
            if "denied" in said or "verification" in said:
                do = f"`xl migrate` needs it too: `ssh-copy-id {self.destination}`"
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


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"
