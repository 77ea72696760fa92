"""What other resource files hold: names, minors, ports and volumes, from any text.

Tolerant on purpose: a foreign file that doesn't parse still says most of what must not
be used twice, and must not stop a VM. Follows drbd.conf(5) only as far as tokens and
braces go; linear in the size of the files. Numbers are counted wherever they stand, a
statement without its end included: one too many costs nothing, one too few a clash.
"""

import os
import re
import stat

from xenhelper import paths

MAX_FILE = 4 * 1024 * 1024
# a string that isn't closed ends with its line: each character is looked at once or twice
_TOKEN = re.compile(r'"((?:[^"\\\n]|\\.)*)("?)|#[^\n]*|([{};])|([^\s{};"#]+)')
_NUMBERED = re.compile(r"/?(?:dev/)?drbd([0-9]{1,9})$")
_PORT = re.compile(r"(?:\[[^]]{0,60}\]|[^:\s])\s*:\s*([0-9]{1,5})\b")
_MINOR = re.compile("[0-9]{1,9}")
_ADDRESSED = {"address", "host", "inside", "outside"}


class Scan:
    """What a set of files uses. ``volumes`` maps a path (as written, of this host) to the
    resource that has it as its disk or metadata."""

    __slots__ = ("minors", "names", "ports", "volumes")

    def __init__(self) -> None:
        self.names: "set[str]" = set()
        self.minors: "set[int]" = set()
        self.ports: "set[int]" = set()
        self.volumes: "dict[str, str]" = {}


def scan_text(text: str, host: str, into: "Scan | None" = None) -> "tuple[Scan, list[str]]":
    """The scan of one file's text and the patterns of its ``include`` statements.

    Paths that stand in an ``on OTHERHOST`` section aren't counted: they are its own.
    """
    found = into if into is not None else Scan()
    includes: "list[str]" = []
    where: "list[list[str]]" = []
    statement: "list[str]" = []
    for match in _TOKEN.finditer(text):
        quoted, closed, mark, word = match.groups()
        if mark is None:
            if quoted is not None and not closed:
                statement += quoted.split()  # what was meant by it may be numbers
            elif quoted is not None or word is not None:
                statement.append(quoted if quoted is not None else word)
            continue
        _numbers(statement, found)
        if mark == "{":
            if "resource" in statement[:-1]:
                where.clear()  # resources don't nest: what wasn't closed before is broken
                starts = [at for at, word in enumerate(statement[:-1]) if word == "resource"]
                found.names.update(statement[at + 1] for at in starts)
                statement = statement[starts[-1] :]
            where.append(statement)
        elif mark == "}":
            if where:
                where.pop()
        elif statement:
            _statement(statement, where, host, found, includes)
        statement = []
    _numbers(statement, found)
    return found, includes


def unclosed(text: str) -> bool:
    """Whether braces don't match or a string isn't closed: drbdadm then refuses to do
    anything to any resource of the host."""
    depth = 0
    for match in _TOKEN.finditer(text):
        quoted, closed, mark, _ = match.groups()
        if quoted is not None and not closed:
            return True
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if depth < 0:
            return True
    return depth != 0


def top_level(text: str) -> "list[list[str]]":
    """The words before each ``{`` or ``;`` that is in no section: ``["resource", "r0"]``,
    ``["common"]``, ``["include", "x"]``. What isn't closed at the end counts as well."""
    found: "list[list[str]]" = []
    words: "list[str]" = []
    depth = 0
    for match in _TOKEN.finditer(text):
        quoted, _, mark, word = match.groups()
        if mark is None:
            if depth == 0 and (quoted is not None or word is not None):
                words.append(quoted if quoted is not None else word)
            continue
        if depth == 0 and words:
            found.append(words)
        words = []
        depth += {"{": 1, "}": -1}.get(mark, 0)
        depth = max(depth, 0)
    return [*found, words] if words else found


def _numbers(words: "list[str]", found: Scan) -> None:
    """Every minor and port of a statement, or of several that run into each other."""
    for at, word in enumerate(words):
        if word == "minor" and words[at + 1 : at + 2] and _MINOR.fullmatch(words[at + 1]):
            found.minors.add(int(words[at + 1]))
        elif word == "device" and words[at + 1 : at + 2]:
            match = _NUMBERED.search(words[at + 1])
            if match:
                found.minors.add(int(match[1]))
        elif word in _ADDRESSED:
            near = " ".join(word[:100] for word in words[at + 1 : at + 5])
            found.ports.update(int(port) for port in _PORT.findall(near))


def _statement(
    words: "list[str]", where: "list[list[str]]", host: str, found: Scan, includes: "list[str]"
) -> None:
    key = words[0]
    if key == "include" and len(words) > 1:
        includes.append(words[1])
    elif key in ("disk", "meta-disk", "flexible-meta-disk") and len(words) > 1 and words[1].startswith("/"):
        hosts = [name for section in where if section[:1] == ["on"] for name in section[1:]]
        owner = next(
            (section[1] for section in where if section[:1] == ["resource"] and len(section) > 1), "?"
        )
        if not hosts or host in hosts:
            found.volumes[words[1].split("[")[0]] = owner


def scan_host(host: str, skip: str = "") -> Scan:
    """All of /etc/drbd.d/*.res, drbd.conf and what these include, but for file ``skip``.

    What can't be read counts as empty.
    """
    found = Scan()
    seen: "set[str]" = {os.path.realpath(skip)} if skip else set()
    try:
        # DRBD itself reads only *.res there; a file put aside may come back
        listed = [name for name in sorted(os.listdir(paths.DRBD_D)) if not name.startswith(".")]
    except OSError:
        listed = []
    queue = [paths.DRBD_CONF, *(f"{paths.DRBD_D}/{name}" for name in listed)]
    while queue:
        name = os.path.realpath(queue.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            if not stat.S_ISREG(os.stat(name).st_mode):
                continue  # a pipe would be waited for
            with open(name, "rb") as file:
                text = file.read(MAX_FILE).decode("utf-8", "replace")
        except (OSError, ValueError):
            continue
        _, includes = scan_text(text, host, found)
        if includes:
            import glob

            for pattern in includes:
                queue += glob.glob(os.path.join(os.path.dirname(name), pattern))
    return found
