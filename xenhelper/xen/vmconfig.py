"""A VM's config file: what xl makes of it, and the one block that xenhelper appends to it.

xl itself parses (``xl create --dryrun`` prints its own reading as JSON, 4.17 and 4.20
alike), so there is no second parser to be wrong. Ours is a last ``disk = […]`` between
two marker lines: a later assignment wins (libxlu_cfg.c). It carries a checksum, so that
a block edited by hand is noticed, and taking it out again gives back the original bytes.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xenhelper import paths
from xenhelper.errors import XenhelperError
from xenhelper.run import run

BEGIN = "# >>> xenhelper:"
END = "# <<< xenhelper"
MAX_BYTES = 100 * 1024
ENCODING, ERRORS = "utf-8", "surrogateescape"

# the block with the newline that we put before it, whatever the file ended with
_BLOCK = re.compile(
    rf"\n{re.escape(BEGIN)} VM (?P<vm>[^\s,;]+)[^\n]*\n"
    rf"(?:#[^\n]*\n)*?# checksum (?P<sum>[0-9a-f]{{16}})\n(?P<body>.*?){re.escape(END)}[^\n]*\n?",
    re.DOTALL,
)
# a statement of the command line's extra config (libxlu_cfg_l.l: IDENT, '=' or '+=');
# more than these may match (inside a string, say), never less
_TOUCHES = re.compile(r"(?:^|[;\n])[ \t]*(?:disk|name)[ \t]*\+?=")
# what xl draws anew at each reading (xl_parse.c): no part of a comparison
_RANDOM = ("uuid", "ms_vm_genid")

# libxl's JSON name of a disk's attribute -> its key in a disk specification
# (libxl_types.idl, libxlu_disk_l.l), in the order we write them; target goes last
_KEYS = {
    "vdev": "vdev",
    "backend_domname": "backend",
    "backend": "backendtype",
    "format": "format",
    "script": "script",
    "specification": "specification",
    "colo_host": "colo-host",
    "colo_port": "colo-port",
    "colo_export": "colo-export",
    "active_disk": "active-disk",
    "hidden_disk": "hidden-disk",
}
_FLAGS = {
    "discard_enable": ("discard", "no-discard"),
    "colo_enable": ("colo", "no-colo"),
    "trusted": ("trusted", "untrusted"),
    "grant_usage": ("grant_usage=1", "grant_usage=0"),
}
_DERIVED = ("pdev_path", "readwrite", "is_cdrom", "removable", "direct_io_safe")


@dataclass(frozen=True)
class Block:
    """Our block in a file: of which VM, and whether it still is as we wrote it."""

    vm: str
    intact: bool


@dataclass(frozen=True)
class Parsed:
    """xl's own reading of a config. ``disks`` are libxl's JSON objects, in order."""

    name: str
    disks: tuple[Mapping[str, Any], ...]
    tree: Mapping[str, Any]

    @property
    def files(self) -> tuple[str, ...]:
        """Kernel, ramdisk and the like, which must exist wherever the VM is to run."""
        info = self.tree.get("b_info", {})
        keys = ("kernel", "ramdisk", "device_model")
        return tuple(info[key] for key in keys if str(info.get(key, "")).startswith("/"))

    @property
    def bridges(self) -> tuple[str, ...]:
        return tuple(sorted({nic["bridge"] for nic in self.tree.get("nics", []) if nic.get("bridge")}))

    @property
    def guest_type(self) -> str:
        """``pv``, ``pvh`` or ``hvm``."""
        return str(self.tree.get("c_info", {}).get("type", ""))


class DryRunFailed(XenhelperError):
    """xl can't read the config. ``stderr`` is what xl said, ``status`` its exit status."""

    def __init__(self, path: str, status: int, stderr: str) -> None:
        self.status = status
        self.stderr = stderr
        last = (stderr.strip().splitlines() or ["no reason given"])[-1]
        super().__init__(f"xl can't read {path}: {last}", "correct it and try again")


def read_file(path: str) -> str:
    """The config's text, its bytes kept whatever their encoding. Raises OSError."""
    with open(paths.ROOT + path, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise XenhelperError(f"{path} is too long for a VM's config ({MAX_BYTES} bytes at most)")
    return raw.decode(ENCODING, ERRORS)


def to_bytes(text: str) -> bytes:
    """The bytes that :func:`read_file` decoded. Raises XenhelperError for a text that none can
    be the source of: JSON may hold half a character."""
    try:
        return text.encode(ENCODING, ERRORS)
    except UnicodeEncodeError as error:
        odd = f"U+{ord(text[error.start]):04X}"
        raise XenhelperError(
            f"a VM's config can't hold the character {odd}", "take it out of its disk lines"
        ) from None


def checksum(text: str) -> str:
    """SHA-256 of a file's text, hexadecimal."""
    return hashlib.sha256(to_bytes(text)).hexdigest()


def split(text: str) -> tuple[str, Block | None]:
    """The text without our block, and the block if there was one.

    Raises XenhelperError when the markers are damaged or there is more than one block.
    """
    found = list(_BLOCK.finditer(text))
    if len(found) > 1 or text.count(BEGIN) != len(found):
        raise XenhelperError(
            f"the block that xenhelper wrote (between {BEGIN!r} and {END!r}) is damaged",
            "remove it with its markers; the next `xl create` writes it anew",
        )
    if not found:
        return text, None
    match = found[0]
    rest = text[: match.start()] + text[match.end() :]
    # lines written after our block must not join the line before it
    if match.end() < len(text) and match.start() and not text[: match.start()].endswith("\n"):
        rest = text[: match.start()] + "\n" + text[match.end() :]
    return rest, Block(match["vm"], _sum(match["body"]) == match["sum"])


def compose(original: str, vm: str, hosts: Sequence[str], specs: Sequence[str]) -> str:
    """``original`` with our block for these disk specifications at its end; the same
    whichever of the two hosts writes it."""
    body = f"disk = {disk_list(specs)}\n"
    return (
        f"{original}\n{BEGIN} VM {vm}, disks replicated between {' and '.join(sorted(hosts))}.\n"
        "# Change the disk lines above, not this block: it is written anew from them at the next\n"
        f"# `xl create`. `xenhelper forget {vm}` takes it out again.\n"
        f"# checksum {_sum(body)}\n{body}{END}\n"
    )


def disk_list(specs: Sequence[str]) -> str:
    """xl's list syntax for these specifications, over several lines."""
    return "[\n" + "".join(f"    {quote(spec)},\n" for spec in specs) + "]"


def override(specs: Sequence[str]) -> str:
    """The same as one command line argument for ``xl create``."""
    return "disk=[" + ", ".join(quote(spec) for spec in specs) + "]"


def _sum(body: str) -> str:
    return hashlib.sha256(to_bytes(body)).hexdigest()[:16]


def quote(value: str) -> str:
    """A string of xl's config language (libxlu_cfg.c, dequote). Raises XenhelperError."""
    if any(ord(char) < 32 for char in value):
        raise XenhelperError(f"the disk specification {value!r} holds a control character")
    to_bytes(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def spec(disk: Mapping[str, Any]) -> str:
    """A disk specification that xl reads as just this JSON object, ``target=`` last.

    Raises XenhelperError for an attribute that the syntax can't say.
    """
    unknown = [key for key in disk if key not in _KEYS and key not in _FLAGS and key not in _DERIVED]
    if unknown:
        raise XenhelperError(
            f"disk {disk.get('vdev', '?')} has an attribute {unknown[0]!r} that can't be kept",
            "leave its volume out in /etc/xenhelper/xenhelper.conf",
        )
    words = []
    for key, word in _KEYS.items():
        value = disk.get(key)
        if value is None or (key in ("backend", "format", "specification") and value == "unknown"):
            continue
        if "," in str(value):
            raise XenhelperError(f"disk {disk.get('vdev', '?')}: {key} {value!r} holds a comma")
        words.append(f"{word}={value}")
    if disk.get("is_cdrom"):
        words.append("devtype=cdrom")
    else:
        words.append("access=" + ("rw" if disk.get("readwrite") else "ro"))
    if disk.get("direct_io_safe"):
        words.append("direct-io-safe")
    for key, (yes, no) in _FLAGS.items():
        if disk.get(key) in ("True", True):
            words.append(yes)
        elif disk.get(key) in ("False", False):
            words.append(no)
    if disk.get("pdev_path"):
        words.append(f"target={disk['pdev_path']}")
    return ",".join(words)


def replicated(disk: Mapping[str, Any], resource: str) -> dict[str, Any]:
    """The disk as it is once ``resource`` stands in for its volume; all else is kept."""
    new = dict(disk)
    for key in ("backend", "format"):
        new.pop(key, None)
    new["script"] = paths.BLOCK_SCRIPT
    new["pdev_path"] = resource
    return new


def touches_disks(overrides: Sequence[str]) -> bool:
    """Whether command line settings may change the disks or the VM's name."""
    return any(_TOUCHES.search(text) for text in overrides)


class Scratch:
    """A private file with a config's text for xl to read, gone at the end of ``with``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.path = ""

    def __enter__(self) -> str:
        os.makedirs(paths.RUN, mode=0o700, exist_ok=True)
        self.path = f"{paths.RUN}/config-{os.urandom(6).hex()}"
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(to_bytes(self.text))
        return self.path

    def __exit__(self, *_: object) -> None:
        os.unlink(self.path)


def dry_run(xl: str, path: str, overrides: Sequence[str] = ()) -> Parsed:
    """xl's reading of ``path`` with the overrides. Raises DryRunFailed, CommandFailed."""
    argv = [xl, "create", "--dryrun", "--quiet", "--defconfig", path, "--", *overrides]
    result = run(argv, timeout=30, ok=None)
    if result.status != 0:
        raise DryRunFailed(path, result.status, result.stderr)
    return parse(result.stdout, path)


def parse(text: str, path: str = "the config") -> Parsed:
    """:class:`Parsed` from what a dry run printed. Raises XenhelperError."""
    try:
        tree = json.loads(text[text.index("{") :])
        name = tree["c_info"]["name"]
        disks = tuple(tree.get("disks", ()))
    except (ValueError, KeyError, TypeError) as error:
        raise XenhelperError(
            f"xl's dry run of {path} printed no JSON", "is xl.conf set to sxp output?"
        ) from error
    return Parsed(str(name), disks, tree)


def difference(before: Parsed, after: Parsed, resources: Mapping[str, str]) -> str:
    """'' if ``after`` is ``before`` with just the named disks (vdev -> resource) replicated,
    else where they differ: the proof of a rewrite, from xl's own two readings."""
    if rest(before.tree) != rest(after.tree):
        return "something besides the disks"
    if len(before.disks) != len(after.disks):
        return f"{len(after.disks)} disks instead of {len(before.disks)}"
    for old, new in zip(before.disks, after.disks, strict=True):
        vdev = str(old.get("vdev", "?"))
        if vdev not in resources:
            if old != new:
                return f"disk {vdev}, which isn't replicated"
            continue
        if new.get("pdev_path") != resources[vdev] or new.get("script") != paths.BLOCK_SCRIPT:
            return f"disk {vdev}: not on {resources[vdev]}"
        changed = ("pdev_path", "script", "backend", "format")
        if {k: v for k, v in old.items() if k not in changed} != {
            k: v for k, v in new.items() if k not in changed
        }:
            return f"another attribute of disk {vdev}"
    return ""


def rest(tree: Mapping[str, Any]) -> Any:
    """All but the disks, without what xl draws anew at each reading."""
    return _without_random({key: value for key, value in tree.items() if key != "disks"})


def _without_random(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_random(item) for key, item in value.items() if key not in _RANDOM}
    return [_without_random(item) for item in value] if isinstance(value, list) else value
