"""The errors a user may see. Each holds one line: what is wrong, what to do next.

Exit codes are part of the contract: 0 done, 1 failed, 2 usage or configuration,
3 refused because it isn't safe; ``status --check`` adds 4 degraded and 5 broken.
"""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_DEGRADED = 4
EXIT_BROKEN = 5


def plain(text: str) -> str:
    """One printable line: what the peer or a tool said mustn't steer a terminal."""
    text = " ".join(text.split())
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


class XenhelperError(Exception):
    """Something failed. ``str()`` is one line for the administrator."""

    exit_code = EXIT_FAILED

    def __init__(self, what: str, do: str = "") -> None:
        self.what = plain(what)
        self.do = plain(do)
        super().__init__(f"{self.what}; {self.do}" if self.do else self.what)


class UsageError(XenhelperError):
    """A wrong command line."""

    exit_code = EXIT_USAGE


class ConfigError(XenhelperError):
    """A wrong or missing configuration; names file, line, key and what is allowed."""

    exit_code = EXIT_USAGE


class Refused(XenhelperError):
    """It could be done, but isn't safe now."""

    exit_code = EXIT_REFUSED


class Busy(Refused):
    """Somebody is at work on it at this moment: nothing is wrong, later it can be done."""


class CommandFailed(XenhelperError):
    """An external program failed or didn't end in time (``status`` is then None)."""

    def __init__(self, argv: "list[str]", status: "int | None", stderr: str, seconds: float) -> None:
        self.argv = argv
        self.status = status
        self.stderr = stderr
        how = f"exit {status}" if status is not None else f"no end within {seconds:g} s"
        last = stderr.strip().splitlines()
        super().__init__(f"{' '.join(argv[:4])} failed ({how})" + (f": {last[-1].strip()}" if last else ""))


class PeerUnreachable(XenhelperError):
    """The peer's xenhelper gave no answer in time, over the management path."""


class PeerFailed(XenhelperError):
    """The peer answered that the request failed there (its line is the message)."""

    def __init__(self, what: str, do: str = "", exit_code: int = EXIT_FAILED) -> None:
        super().__init__(what, do)
        self.exit_code = exit_code
