"""The settings a resource runs with, from ``drbdsetup show`` (not those in its file)."""

from xenhelper.errors import CommandFailed
from xenhelper.run import run


class Settings:
    """Runtime settings. ``local`` and ``remote`` are addresses as drbdsetup takes them
    (``ipv4:10.0.0.1:7800``), empty while the resource has no connection (StandAlone).
    ``meta``: a volume's path, ``internal``, or empty when it is indexed. ``numbers``: those of
    its volumes (ours have just 0)."""

    __slots__ = (
        "fencing",
        "local",
        "meta",
        "minor",
        "name",
        "numbers",
        "protocol",
        "remote",
        "two_primaries",
        "volume",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.protocol = "C"  # DRBD's default, which `show` leaves out
        self.two_primaries = False
        self.fencing = "dont-care"  # DRBD's default, too
        self.local = ""
        self.remote = ""
        self.minor = -1
        self.volume = ""
        self.meta = ""
        self.numbers: "list[str]" = []


def parse(text: str) -> "dict[str, Settings]":
    """Settings by resource name from ``drbdsetup show`` output."""
    found: "dict[str, Settings]" = {}
    where: "list[str]" = []
    for line in text.splitlines():
        words = line.split("#")[0].replace(";", " ").split()
        if not words:
            continue
        if words[-1] == "{":
            where.append(" ".join(words[:-1]))
            if len(where) == 1 and words[0] == "resource" and len(words) == 3:
                found[words[1].strip('"')] = Settings(words[1].strip('"'))
            continue
        if words[0] == "}":
            if where:
                where.pop()
            continue
        if not where or not where[0].startswith("resource "):
            continue
        settings = found.get(where[0].split()[1].strip('"'))
        if settings is not None:
            _apply(settings, where, words)
    return found


def _apply(settings: Settings, where: "list[str]", words: "list[str]") -> None:
    key = words[0]
    value = words[-1].strip('"')
    if key == "protocol":
        settings.protocol = value
    elif key == "allow-two-primaries":
        settings.two_primaries = value in ("yes", "allow-two-primaries")
    elif key == "address" and len(words) == 3:
        address = f"{words[1]}:{value}"
        if where[-1] == "_this_host":
            settings.local = address
        elif where[-1] == "_remote_host":
            settings.remote = address
    elif key == "device" and len(words) == 3 and words[1] == "minor":
        settings.numbers.append(where[-1].removeprefix("volume "))
        settings.minor = int(value) if value.isdecimal() and len(value) < 20 else -1
    elif key == "disk" and len(words) == 2:
        settings.volume = value
    elif key == "fencing":
        settings.fencing = value
    elif key in ("meta-disk", "flexible-meta-disk") and len(words) == 2:
        settings.meta = value


def settings(resource: str = "") -> "dict[str, Settings]":
    """Runtime settings of all resources, or of the named one. Raises CommandFailed.

    A resource that isn't up is missing from the answer; that is no error.
    """
    argv = ["drbdsetup", "show"]
    if resource:
        argv.append(resource)
    try:
        return parse(run(argv, timeout=10).stdout)
    except CommandFailed as error:
        # the kernel's ENODEV: no such resource; 20 alone may be any failure (drbdsetup.c)
        if resource and error.status == 20 and "No such device" in error.stderr:
            return {}
        raise


def one(name: str) -> "Settings | None":
    """The named resource's runtime settings, or None when it isn't up."""
    return settings(name).get(name)
