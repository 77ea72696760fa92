"""/etc/default/xendomains: its defaults don't fit VMs that move between hosts.

Debian's xendomains saves guests at shutdown and restores them at boot. A restored guest
has old memory over disks that may have gone on elsewhere meanwhile; and a saved guest is
not a VM that the other host may start. `xenhelper setup` turns both off, once, and keeps
the former line beside; who turns them on again is warned by status.
"""

from xenhelper import paths

PATH = "/etc/default/xendomains"
_WANTED = {"XENDOMAINS_SAVE": '""', "XENDOMAINS_RESTORE": "false"}
# debian/xenhelper.postrm puts the lines after it back
_MARK = "#xenhelper-setup#"


def text() -> str:
    """What the file says; '' when there is none, or none that can be read."""
    try:
        with open(paths.ROOT + PATH, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def problem(said: str) -> str:
    """What is wrong with the file's text ``said``, in one line; '' if nothing."""
    values = {key: value for key, value in map(_setting, said.splitlines()) if key}
    if values.get("XENDOMAINS_SAVE") or values.get("XENDOMAINS_RESTORE", "").lower() == "true":
        return (
            "xendomains saves guests at shutdown and restores them at boot (XENDOMAINS_SAVE, "
            "XENDOMAINS_RESTORE): a guest's old memory doesn't fit a disk that went on elsewhere"
        )
    return ""


def mended(said: str) -> str:
    """The text with both turned off and the former lines kept as comments.

    Unchanged when nothing is wrong, or when this was done before: then somebody turned
    them on again, and meant it.
    """
    if not problem(said) or _MARK in said:
        return said
    lines = []
    for line in said.splitlines():
        key, value = _setting(line)
        if value and key in _WANTED:
            lines += [_MARK + line, f"{key}={_WANTED[key]}"]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _setting(line: str) -> "tuple[str, str]":
    key, equals, value = line.strip().partition("=")
    if not equals or key not in _WANTED:
        return "", ""
    return key, value.split("#")[0].strip().strip("\"'")
