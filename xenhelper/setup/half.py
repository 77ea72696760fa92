"""One host's half of pairing: each step looks first, and says what it changed.

Requests are data (JSON) whether they come from this host or over ssh. A step that finds
everything as it should be changes nothing and says nothing, so setup can run again.
"""

import os
import re
import time
from typing import Any

from xenhelper import config, names, paths, statefile, xendomains
from xenhelper.errors import CommandFailed, ConfigError, Refused, UsageError, XenhelperError
from xenhelper.run import run
from xenhelper.setup import host

AUTHORIZED_KEYS = paths.ROOT + "/root/.ssh/authorized_keys"
_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{40,100}={0,2}")
_HOST_KEY = re.compile(r"[a-z0-9@.-]{4,60} [A-Za-z0-9+/]{40,2000}={0,2}")


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request (``op`` names it). Raises XenhelperError."""
    steps = {"facts": _facts, "key": _key, "apply": _apply, "check": _check, "sizes": _sizes}
    step = steps.get(str(request.get("op")))
    if step is None:
        raise UsageError(f"setup: unknown request {request.get('op')!r}")
    return step(request)


def _facts(request: dict[str, Any]) -> dict[str, Any]:
    if os.path.exists(paths.CONFIG):
        config.load()  # a file with a mistake is mended by whoever made it, before anything else
    return host.facts()


def _key(request: dict[str, Any]) -> dict[str, Any]:
    """Make the peer key unless there is one; answer its public half ('' in a dry run)."""
    changed = []
    if not os.path.exists(paths.PEER_KEY):
        changed.append(f"make the peer key {paths.PEER_KEY}")
        if request.get("dry_run"):
            return {"changed": changed, "public": ""}
        folder = os.path.dirname(paths.PEER_KEY)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        trial = f"{paths.PEER_KEY}.new"
        for path in (trial, trial + ".pub"):
            statefile.remove(path)
        comment = f"xenhelper@{os.uname().nodename}"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", trial], timeout=30)
        os.rename(trial + ".pub", paths.PEER_KEY + ".pub")
        os.rename(trial, paths.PEER_KEY)
        statefile.sync_folder(folder)
    public = run(["ssh-keygen", "-y", "-f", paths.PEER_KEY], timeout=30).stdout
    return {"changed": changed, "public": " ".join(public.split()[:2])}


def _apply(request: dict[str, Any]) -> dict[str, Any]:
    """Configuration, the peer's key and host keys, the shim's link, the units."""
    peer, dry_run = str(request["peer"]), bool(request.get("dry_run"))
    if not names.valid_host(peer):
        raise UsageError(f"{peer!r} can't be a host's name")
    changed = []
    before = _text(paths.CONFIG)
    after = config.render(before, _keep_host(before, peer, _keep_groups(before, request["conf"])))
    if after != before:
        changed.append(f"write {paths.CONFIG}")
        if not dry_run:
            config.store(after)
    changed += _authorize(peer, str(request["public"]), dry_run)
    changed += _know(peer, [str(key) for key in request["host_keys"]], dry_run)
    changed += link_shim(dry_run)
    changed += _xendomains(dry_run)
    changed += _addresses(peer, dry_run, after != before)
    changed += enable_units(peer, dry_run, restart=after != before)
    return {"changed": changed}


def _addresses(peer: str, dry_run: bool, changed: bool) -> list[str]:
    """Resources that replicate with the peer follow its addresses."""
    if dry_run and changed:
        return []  # what they become stands in no file yet
    from xenhelper import readdress

    return readdress.here(peer, dry_run)


def _keep_groups(before: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Groups that this host replicates with others stay in [replicate]."""
    present = _parsed(before).get("replicate", {}).get("volume_groups", [])
    listed = [present] if isinstance(present, str) else list(present)
    wanted = [*listed, *(group for group in changes["replicate"]["volume_groups"] if group not in listed)]
    return {**changes, "replicate": {"volume_groups": wanted}}


def _keep_host(before: str, peer: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Other peers go by this host's default addresses: a new peer with a link of its own gets
    its own local one, unless the default is none of this host's any more."""
    present = _parsed(before)
    others = [name for name in present.get("peers", {}) if name != peer]
    section = present.get("peers", {}).get(peer, {})
    new = changes["host"]
    kept = dict(new)
    if others:
        mine = {item["address"] for item in host.addresses()}
        for key in ("management", "replication"):
            if present.get("host", {}).get(key) in mine:
                kept[key] = present["host"][key]
    local = {}
    if kept["replication"] != new["replication"]:
        local = {"local_replication": new["replication"]}
    elif section.get("local_replication"):
        local = {"local_replication": ""}
    peers = {peer: {**changes["peers"][peer], **local}}
    return {**changes, "host": kept, "peers": peers}


def present() -> dict[str, Any]:
    """The configuration as it stands, unchecked; {} when there is none. Raises ConfigError."""
    return _parsed(_text(paths.CONFIG))


def _parsed(text: str) -> dict[str, Any]:
    from configobj import ConfigObj, ConfigObjError

    try:
        found: dict[str, Any] = ConfigObj(text.splitlines(), interpolation=False, raise_errors=True).dict()
    except ConfigObjError as error:
        raise ConfigError(f"{paths.CONFIG}: {error}", "mend or remove it") from None
    return found


def _authorize(peer: str, public: str, dry_run: bool) -> list[str]:
    """The peer's key in root's authorized_keys, bound to our server and to nothing else."""
    if public and not _KEY.fullmatch(public):
        raise UsageError(f"{peer} sent something that is no ed25519 key")
    # an administrator may keep it elsewhere behind a link: write the file, not the link
    path = os.path.realpath(AUTHORIZED_KEYS)
    prefix = f'command="{paths.LIBEXEC}/peer-serve {peer}",restrict '
    wanted = f"{prefix}{public} xenhelper@{peer}"
    lines = _text(path).splitlines()
    mine = [line for line in lines if line.startswith(prefix)]
    if mine == [wanted]:
        return []
    if not dry_run and public:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        kept = [line for line in lines if not line.startswith(prefix)]
        statefile.write_atomically(path, ("\n".join([*kept, wanted]) + "\n").encode(), 0o600)
    return [f"let {peer}'s key ask xenhelper here, and only that, in {AUTHORIZED_KEYS}"]


def _know(peer: str, host_keys: list[str], dry_run: bool) -> list[str]:
    if not host_keys or not all(_HOST_KEY.fullmatch(key) for key in host_keys):
        raise XenhelperError(f"{peer} has no usable ssh host keys", "`ssh-keygen -A` there makes them")
    lines = _text(paths.PEER_KNOWN_HOSTS).splitlines()
    kept = [line for line in lines if not line.startswith(peer + " ")]
    wanted = [*kept, *(f"{peer} {key}" for key in host_keys)]
    if sorted(wanted) == sorted(lines):
        return []
    if not dry_run:
        text = "".join(line + "\n" for line in wanted)
        statefile.write_atomically(paths.PEER_KNOWN_HOSTS, text.encode(), 0o644)
    return [f"note {peer}'s host keys in {paths.PEER_KNOWN_HOSTS}"]


def link_shim(dry_run: bool) -> list[str]:
    """/usr/local/sbin/xl leads to our shim. Raises Refused when something else is there."""
    state = host.shim_state()
    if state == "ours":
        return []
    if state == "foreign":
        raise Refused(f"{host.SHIM} is there and isn't xenhelper's", "move it away")
    if not dry_run:
        os.makedirs(os.path.dirname(paths.ROOT + host.SHIM), exist_ok=True)
        os.symlink(host.SHIM_TARGET, paths.ROOT + host.SHIM)
    return [f"link {host.SHIM} to {host.SHIM_TARGET}"]


def _xendomains(dry_run: bool) -> list[str]:
    before = xendomains.text()
    after = xendomains.mended(before)
    if after == before:
        return []
    if not dry_run:
        path = os.path.realpath(paths.ROOT + xendomains.PATH)
        statefile.write_atomically(path, after.encode(errors="surrogateescape"), 0o644)
    return [f"have xendomains shut guests down, not save and restore them ({xendomains.PATH})"]


def unit_names(peer: str) -> list[str]:
    """What setup enables for a pair."""
    units = ["xenhelper-resources.service", f"xenhelper-peer@{peer}.service", "xenhelper-tune.service"]
    units += ["xenhelper-watch.service", "xenhelper-reconcile.timer", "xenhelper-alert.path"]
    return [*units, "xenhelper-verify.timer", "xenhelper-evacuate.service"]


def enable_units(peer: str, dry_run: bool, restart: bool) -> list[str]:
    """All of them enabled and started; says which weren't."""
    link, units = f"xenhelper-peer@{peer}.service", unit_names(peer)
    enabled = _said(["systemctl", "is-enabled", *units])
    # those with a condition that isn't met (no Xen yet) stay inactive: no change to report
    missing = [unit for unit, state in zip(units, enabled, strict=False) if state != "enabled"]
    missing += units[len(enabled) :]
    changed = [f"enable and start {unit}" for unit in missing]
    if dry_run:
        return changed
    if missing:
        run(["systemctl", "enable", "--quiet", *missing], timeout=60)
    run(["systemctl", "start", *units], timeout=660)
    if restart and link not in missing:
        run(["systemctl", "restart", link], timeout=60)
    return changed


def _said(argv: list[str]) -> list[str]:
    return run(argv, timeout=20, ok=None).stdout.split()


def _check(request: dict[str, Any]) -> dict[str, Any]:
    """Ask the peer who it is, over the channel, until it answers (``seconds`` at most)."""
    from xenhelper.peer import client

    peer, deadline = str(request["peer"]), time.monotonic() + float(request.get("seconds", 30))
    while True:
        try:
            answer = client.ask(peer, "hello", {}, timeout=15.0)
            break
        except XenhelperError as error:
            if time.monotonic() >= deadline:
                raise XenhelperError(
                    f"{os.uname().nodename}: xenhelper on {peer} doesn't answer: {error.what}",
                    f"see `journalctl -u xenhelper-peer@{peer}`; sshd there must let root in by key "
                    "(PermitRootLogin prohibit-password)",
                ) from None
            time.sleep(1)
    if answer.get("host") != peer or answer.get("you") != os.uname().nodename:
        raise XenhelperError(
            f"{peer}'s address answers as {answer.get('host')} and takes this host for {answer.get('you')}",
            "check the addresses and run setup again",
        )
    return {"warnings": _ssh_warnings(str(request.get("ssh_to", "")))}


def _ssh_warnings(target: str) -> list[str]:
    """`xl migrate HOST` from here runs ssh to HOST as root: say now if that won't work."""
    if not target:
        return []
    try:
        argv = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--", f"root@{target}", "true"]
        run(argv, timeout=30, env=agent())
    except CommandFailed as error:
        said = (error.stderr.strip().splitlines() or ["no answer"])[-1].strip()
        me = os.uname().nodename
        return [f"{me}: `xl migrate` from here needs root's ssh to {target}, which fails: {said}"]
    return []


def agent() -> dict[str, str]:
    """The administrator's ssh agent may hold the key that gets in."""
    return {key: os.environ[key] for key in ("SSH_AUTH_SOCK", "HOME") if key in os.environ}


def _sizes(request: dict[str, Any]) -> dict[str, Any]:
    from xenhelper.setup import sizes

    return {"lines": sizes.lines()}


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise XenhelperError(f"{path} can't be read: {error}") from None
