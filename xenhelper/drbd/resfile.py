"""Our resource file: /etc/drbd.d/VM.res, byte for byte the same on both hosts.

Rendered from values that both hosts hold, never sent as text: what a peer asks for can't
hold a handler or an option of its own. Options are DRBD 8.4's (drbd.conf(5) for 8.4;
facts on resync: docs). The file has a secret in it: mode 0600.
"""

import os
import re

from xenhelper import names, paths
from xenhelper.drbd import handlers
from xenhelper.drbd import knobs as knobs_of
from xenhelper.drbd.knobs import Knobs
from xenhelper.errors import XenhelperError

HEADER = "# xenhelper: resources of VM "
_SECRET = re.compile(r'shared-secret "([0-9a-f]{32,64})";')

# Steady settings, beside those of the link (knobs.py): the controller rules the resync
# (c-plan-ahead), so resync-rate only says how it begins; a ping may wait
# behind a slow link's queue, so it gets 3 s instead of 0.5.
_DISK = (
    # the handler goes first, then it detaches (drbd_state.c)
    "on-io-error call-local-io-error;",
    "fencing resource-only;",
    "resync-rate 40M;",
)
_NET = (
    "allow-two-primaries no;",
    "cram-hmac-alg sha256;",
    "after-sb-0pri discard-zero-changes;",
    "after-sb-1pri consensus;",
    "after-sb-2pri disconnect;",
    "ping-timeout 30;",
    "rcvbuf-size 0;",
    "verify-alg crc32c;",
)
# drbd.service (disabled by default) would wait for ever for a missing peer
_STARTUP = ("wfc-timeout 10;", "degr-wfc-timeout 10;", "outdated-wfc-timeout 10;")


class End:
    """One host's side of a resource. ``address`` is an IP address without port."""

    __slots__ = ("address", "host", "meta", "volume")

    def __init__(self, host: str, address: str, volume: str, meta: str) -> None:
        self.host = host
        self.address = address
        self.volume = volume
        self.meta = meta


class Entry:
    """One resource of a file: numbers, secret, both ends, and what the link allows."""

    __slots__ = ("ends", "knobs", "minor", "port", "protocol", "resource", "secret")

    def __init__(
        self,
        resource: str,
        minor: int,
        port: int,
        secret: str,
        ends: "tuple[End, End]",
        protocol: str = "A",
        knobs: Knobs | None = None,
    ) -> None:
        self.resource = resource
        self.minor = minor
        self.port = port
        self.secret = secret
        self.ends = ends
        self.protocol = protocol
        self.knobs = knobs or Knobs()


def path(vm: str) -> str:
    """Where the resource file of ``vm`` is."""
    return f"{paths.DRBD_D}/{names.check_vm(vm)}.res"


def new_secret() -> str:
    """A shared secret: 128 random bits in hexadecimal (DRBD takes 64 characters at most)."""
    return os.urandom(16).hex()


def render(vm: str, entries: "list[Entry]") -> str:
    """The file's text. Raises XenhelperError for a value that can't stand in it."""
    parts = [
        f"{HEADER}{names.check_vm(vm)}. Written by xenhelper, the same on both hosts.\n"
        "# Changes made here are lost; `xenhelper forget` removes it safely.\n"
    ]
    parts += [_render_one(entry) for entry in sorted(entries, key=lambda entry: entry.resource)]
    return "".join(parts)


def _render_one(entry: Entry) -> str:
    name = names.check_resource(entry.resource)
    if not re.fullmatch(r"[0-9a-f]{32,64}", entry.secret):
        raise XenhelperError(f"{name}: the shared secret isn't 32 to 64 hexadecimal digits")
    if entry.protocol not in ("A", "B", "C") or not 0 <= entry.minor < 1 << 20 or not 0 < entry.port < 65536:
        raise XenhelperError(f"{name}: protocol, minor or port is out of range")
    disk = (*_DISK, *knobs_of.render(entry.knobs, knobs_of.DISK + knobs_of.THIN))
    steady = (f"protocol {entry.protocol};", f'shared-secret "{entry.secret}";', *_NET)
    net = (*steady, *knobs_of.render(entry.knobs, knobs_of.NET))
    lines = [
        "",
        f"resource {_quoted(name)} {{",
        f"    device {_quoted('/dev/drbd_' + name)} minor {entry.minor};",
        "    handlers {",
        f"        fence-peer {_quoted(paths.LIBEXEC + '/fence-peer')};",
        *(f"        {kind} {_quoted(f'{paths.LIBEXEC}/drbd-event {kind}')};" for kind in handlers.EVENTS),
        "    }",
        *_section("startup", _STARTUP),
        *_section("disk", disk),
        *_section("net", net),
    ]
    for end in sorted(entry.ends, key=lambda end: end.host):
        if not names.valid_host(end.host):
            raise XenhelperError(f"{end.host[:80]!r} can't be a host's name")
        lines += [
            f"    on {_quoted(end.host)} {{",
            f"        disk {_quoted(end.volume)};",
            # the word, not a file of that name, where metadata is on the volume itself
            f"        meta-disk {end.meta if end.meta == 'internal' else _quoted(end.meta)};",
            f"        address {_address(end.address, entry.port)};",
            "    }",
        ]
    return "\n".join([*lines, "}", ""])


def _section(name: str, options: "tuple[str, ...]") -> "list[str]":
    return [f"    {name} {{", *(f"        {option}" for option in options), "    }"]


def _quoted(text: str) -> str:
    if not text.isascii() or not text.isprintable() or any(char in text for char in '"\\') or len(text) > 250:
        raise XenhelperError(f"{text[:120]!r} can't stand in a DRBD resource file")
    return f'"{text}"'


def family(address: str) -> str:
    """``ipv4`` or ``ipv6``. Raises XenhelperError when ``address`` is neither."""
    import socket

    for kind, name in ((socket.AF_INET, "ipv4"), (socket.AF_INET6, "ipv6")):
        try:
            socket.inet_pton(kind, address)
            return name
        except (OSError, ValueError):
            continue
    raise XenhelperError(
        f"{address[:80]!r} is no IP address", "correct the replication address in the configuration"
    )


def endpoint(address: str, port: int) -> str:
    """``ipv4:10.99.0.1:7800``: the form in which drbdsetup takes an address."""
    kind = family(address)
    return f"{kind}:[{address}]:{port}" if kind == "ipv6" else f"{kind}:{address}:{port}"


def _address(address: str, port: int) -> str:
    return endpoint(address, port).replace(":", " ", 1)


def is_ours(text: str, vm: str) -> bool:
    """Whether ``text`` is a file that we wrote for ``vm``."""
    return text.startswith(f"{HEADER}{vm}. ")


def read(vm: str) -> "str | None":
    """The file of ``vm``, None when there is none."""
    try:
        with open(path(vm), encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


def knobs(text: str) -> "dict[str, Knobs]":
    """What the link allowed when each resource was made, or tuned since, by its name."""
    return {name: knobs_of.parse(part) for name, part in _parts(text)}


def with_knobs(text: str, knobs: Knobs) -> str:
    """``text`` (a file that :func:`render` made) with every resource's settings of the
    link replaced by ``knobs``; all else as it was, what a disk has for being thin as well."""
    for line in (*knobs_of.render(knobs, knobs_of.DISK), *knobs_of.render(knobs, knobs_of.NET)):
        key = line.split()[0]
        text = re.sub(rf"^(\s*){key} \d+[kM]?;$", rf"\g<1>{line}", text, flags=re.MULTILINE)
    return text


def _parts(text: str) -> "list[tuple[str, str]]":
    """(resource, what the file says of it)."""
    found = []
    for part in text.split("\nresource ")[1:]:
        name, end, _ = part[1:].partition('"')
        if part.startswith('"') and end:
            found.append((name, part))
    return found


def secrets(text: str) -> "dict[str, str]":
    """Shared secret by resource name, from a file that :func:`render` made."""
    found = {name: _SECRET.search(part) for name, part in _parts(text)}
    return {name: match[1] for name, match in found.items() if match}
