"""/etc/xenhelper/xenhelper.conf: read, checked against xenhelper.conf.spec, written.

Whatever is wrong is one ConfigError that names file, line, key and what is allowed;
nothing is guessed and no key is passed over.
"""

import fnmatch
import io
import ipaddress
import os
from dataclasses import dataclass, field
from typing import Any

from xenhelper import alertsettings, names, paths, statefile
from xenhelper.errors import ConfigError, XenhelperError
from xenhelper.tuning import settings
from xenhelper.tuning.settings import Tuning

MIGRATE = "migrate"
SPEC = os.path.join(os.path.dirname(__file__), "xenhelper.conf.spec")


@dataclass(frozen=True)
class Peer:
    """Another host. ``volume_groups``: a group's name here -> its name there."""

    name: str
    management: str
    replication: str
    local_replication: str
    volume_groups: dict[str, str]
    ssh_port: int = 22
    fence_command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """The whole file, checked. Volume patterns are fnmatch patterns of ``VG/LV``."""

    host: str
    management: str
    replication: str
    peers: dict[str, Peer]
    volume_groups: tuple[str, ...]
    exclude_volumes: tuple[str, ...]
    exclude_vms: tuple[str, ...]
    shared_volumes: tuple[str, ...]
    ports: tuple[int, int]
    minors: tuple[int, int]
    protocol: str
    placement: tuple[tuple[str, str], ...] = ()
    oldest_data: int = 900
    priority: tuple[str, ...] = ()
    at_shutdown: str = "shut-down"
    alerts: alertsettings.Alerts = alertsettings.DEFAULT
    textfile: str = ""
    tuning: Tuning = field(default_factory=Tuning)
    verify_hours: tuple[int, int] = (1, 5)
    verify_every: int = 30
    verify_rate: int = 40

    def peer(self, name: str) -> Peer:
        """The configured peer of this name. Raises ConfigError."""
        found = self.peers.get(name)
        if found is None:
            known = ", ".join(sorted(self.peers)) or "none"
            raise ConfigError(
                f"{name} is no peer in {paths.CONFIG} (there: {known})", f"xenhelper setup {name}"
            )
        return found

    def peers_for(self, vm: str) -> list[Peer]:
        """Who may take ``vm``'s replica: the one that the first fitting pattern in
        [placement] names, else every peer. Raises ConfigError when there is none."""
        for pattern, name in self.placement:
            if fnmatch.fnmatchcase(vm, pattern):
                return [self.peer(name)]
        if not self.peers:
            raise ConfigError(f"{paths.CONFIG} names no peer", "xenhelper setup PEER")
        return [self.peers[name] for name in sorted(self.peers)]


def check_name(settings: Config, name: str) -> None:
    """Raises ConfigError when this host, which is called ``name`` now, was given another one
    since it was set up: DRBD wouldn't find its section in the resource files any more."""
    if settings.host != name:
        raise ConfigError(
            f"{paths.CONFIG} and the resource files are for {settings.host}, and this host is called {name} "
            "now",
            f"give it its name back: `hostnamectl hostname {settings.host}`",
        )


def load(path: str = "") -> Config:
    """The configuration at ``path`` (paths.CONFIG). Raises ConfigError."""
    where = path or paths.CONFIG
    parsed, lines = _parse(where)
    problems = _problems(parsed, lines)
    if problems:
        # the first in the file; what is missing altogether comes after what is misspelt
        line, what, do = min(problems, key=lambda problem: problem[0] or len(lines) + 1)
        at = f"{where} line {line}" if line else where
        raise ConfigError(f"{at}: {what}", do)
    return _build(parsed, where, lines)


def _parse(path: str) -> tuple[Any, list[str]]:
    from configobj import ConfigObj, ConfigObjError

    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing", "xenhelper setup PEER writes it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason})", "save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    spec = ConfigObj(SPEC, interpolation=False, list_values=False, _inspec=True, file_error=True)
    lines = text.splitlines()
    try:
        parsed = ConfigObj(
            lines,
            configspec=spec,
            interpolation=False,
            list_values=True,
            raise_errors=True,
            write_empty_values=True,
        )
    except ConfigObjError as error:
        number = getattr(error, "line_number", None)
        at = f"{path} line {number}" if number else path
        said = str(error).split(" at line ")[0].rstrip(".")
        raise ConfigError(f"{at}: {said}", "write `key = value` lines in [sections]") from None
    return parsed, lines


def _problems(parsed: Any, lines: list[str]) -> list[tuple[int, str, str]]:
    """(line, what, what is allowed) of everything that doesn't fit the spec."""
    from configobj import flatten_errors, get_extra_values

    from xenhelper import configtypes

    found = []
    valid = parsed.validate(configtypes.validator(), preserve_errors=True)
    for sections, key, error in flatten_errors(parsed, valid):
        name = _dotted(sections, key)
        line = line_of(lines, sections, key)
        if key is None:
            found.append((line, f"section {name} is missing", f"add it: see {_MANUAL}"))
        elif error is False:
            found.append(
                (line_of(lines, sections, None), f"{name} is missing", f"add `{key} = ...`: see {_MANUAL}")
            )
        else:
            found.append((line, f"{name}: {error}", ""))
    for sections, key in get_extra_values(parsed):
        section = parsed
        for part in sections:
            section = section[part]
        allowed = [k for k in [*section.configspec.scalars, *section.configspec.sections] if k != "__many__"]
        kind = "section" if key in section.sections else "key"
        known = "known here: " + ", ".join(allowed) if allowed else f"see {_MANUAL}"
        found.append((line_of(lines, sections, key), f"unknown {kind} {_dotted(sections, key)}", known))
    return found


_MANUAL = "xenhelper.conf(5)"


def _dotted(sections: Any, key: str | None) -> str:
    path = "".join(f"[{part}]" for part in sections)
    return f"{path} {key}" if path and key else path or str(key)


def line_of(lines: list[str], sections: Any, key: str | None) -> int:
    """The line (from 1) where the key or section stands; that of its nearest section
    that does, when it's missing; else 0. ConfigObj keeps no line numbers."""
    wanted = [*sections]
    where: list[str] = []
    best = 0
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if line.startswith("["):
            depth = len(line) - len(line.lstrip("["))
            name = line.strip("[] \t").split("]")[0].strip().strip("\"'")
            where = [*where[: depth - 1], name]
            if where == wanted[: len(where)]:
                best = number
            if key is not None and where == [*wanted, key]:
                return number
        elif key is not None and where == wanted and line.split("=")[0].strip().strip("\"'") == key:
            return number
    return best


def _build(parsed: Any, path: str, lines: list[str]) -> Config:
    host = parsed["host"]
    replicate = parsed["replicate"]
    groups = tuple(replicate["volume_groups"])
    peers = {}
    for name, section in parsed["peers"].items():
        at = f"{path} line {line_of(lines, ['peers', name], None)}"
        if not names.valid_host(name):
            raise ConfigError(f"{at}: [peers] {name!r} can't be a host's name", "use the peer's `uname -n`")
        if name == host["name"]:
            raise ConfigError(f"{at}: {name} is this host itself", "name the other host")
        peers[name] = Peer(
            name=name,
            management=section["management"],
            replication=section["replication"],
            local_replication=section["local_replication"] or host["replication"],
            volume_groups=dict(section["volume_groups"]),
            ssh_port=section["ssh_port"],
            fence_command=tuple(section["fence_command"]),
        )
    for pattern, name in parsed["placement"].items():
        if name not in peers:
            line = line_of(lines, ["placement"], pattern)
            raise ConfigError(
                f"{path} line {line}: [placement] {pattern}: {name} is no peer",
                f"one of: {', '.join(sorted(peers)) or 'none yet'}",
            )
    for group in groups:
        if peers and not any(group in peer.volume_groups for peer in peers.values()):
            line = line_of(lines, ["replicate"], "volume_groups")
            raise ConfigError(
                f"{path} line {line}: [replicate] volume_groups: no peer has a place for {group}",
                f"add `{group} = NAME THERE` to [[[volume_groups]]] of a peer",
            )
    numbers = parsed["numbers"]
    return Config(
        host=host["name"],
        management=host["management"],
        replication=host["replication"],
        peers=peers,
        volume_groups=groups,
        exclude_volumes=tuple(replicate["exclude_volumes"]),
        exclude_vms=tuple(replicate["exclude_vms"]),
        shared_volumes=tuple(replicate["shared_volumes"]),
        ports=(numbers["ports"][0], numbers["ports"][1]),
        minors=(numbers["minors"][0], numbers["minors"][1]),
        protocol=parsed["drbd"]["protocol"],
        placement=tuple(parsed["placement"].items()),
        oldest_data=parsed["takeover"]["oldest_data"],
        priority=tuple(parsed["takeover"]["priority"]),
        at_shutdown=parsed["shutdown"]["guests"],
        alerts=alertsettings.build(parsed["alerts"]),
        textfile=parsed["metrics"]["textfile"],
        tuning=settings.build(parsed),
        verify_hours=(parsed["verify"]["hours"][0], parsed["verify"]["hours"][1]),
        verify_every=parsed["verify"]["every"],
        verify_rate=parsed["verify"]["rate"],
    )


def render(old: str, changes: dict[str, Any]) -> str:
    """``old`` (a file's text, may be empty) with ``changes`` (nested sections) put in;
    comments, order and every other setting stay. Raises ConfigError when ``old`` can't be read."""
    from configobj import ConfigObj, ConfigObjError

    try:
        parsed = ConfigObj(
            old.splitlines(), interpolation=False, list_values=True, raise_errors=True, indent_type=""
        )
    except ConfigObjError as error:
        raise ConfigError(f"{paths.CONFIG}: {error}", "mend or remove it") from None
    if not _merge(parsed, changes):
        return old  # writing it anew could move a blank
    if not old:
        parsed.initial_comment = [
            "# xenhelper: see xenhelper.conf(5). Written by `xenhelper setup`, which keeps what you add.",
        ]
    out = io.BytesIO()
    parsed.write(out)
    return out.getvalue().decode("utf-8")


def _merge(section: Any, changes: dict[str, Any]) -> bool:
    changed = False
    for key, value in changes.items():
        if isinstance(value, dict):
            if key not in section:
                section[key] = {}
                section.comments[key] = [""]
                changed = True
            changed = _merge(section[key], value) or changed
        elif section.get(key) != value and not (isinstance(value, list) and [section.get(key)] == value):
            # a list of one is written as people write it, without a comma
            section[key] = value[0] if isinstance(value, list) and len(value) == 1 else value
            changed = True
    return changed


def store(text: str, path: str = "") -> bool:
    """Write ``text`` after checking that it loads. False when it already stands there.

    Raises ConfigError and leaves the old file when the new one wouldn't load.
    """
    where = path or paths.CONFIG
    try:
        with open(where, encoding="utf-8") as file:
            if file.read() == text:
                return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    trial = f"{where}.new"
    # an administrator may have closed it to others: a fence_command can hold a password
    mode = os.stat(where).st_mode & 0o777 if os.path.exists(where) else 0o644
    statefile.write_atomically(trial, text.encode(), mode)
    try:
        load(trial)
        os.rename(trial, where)
    except XenhelperError:
        os.unlink(trial)
        raise
    # the folder may have been made just now, for root only; the file holds no secret
    os.chmod(os.path.dirname(where), 0o755)  # noqa: S103
    statefile.sync_folder(os.path.dirname(where))
    return True


def valid_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 address that a host can have."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified or address.is_loopback)
