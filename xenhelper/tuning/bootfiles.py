"""What only the boot loader or another package's file can set: the exact text, and where.

Decided here (pure) from Facts, written by `xenhelper tune --write` alone: a file of our
own where the format has drop-ins, else a marked block at the end of a file. The package
takes both away again when it is removed (debian/xenhelper.postrm).
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xenhelper import beneath, paths, statefile, xendomains
from xenhelper.errors import XenhelperError
from xenhelper.run import run
from xenhelper.tuning.items import cpu_set
from xenhelper.tuning.settings import Tuning
from xenhelper.xen import domains

GRUB = "/etc/default/grub.d/xenhelper.cfg"
XL_CONF = "/etc/xen/xl.conf"
LVM_LOCAL = "/etc/lvm/lvmlocal.conf"
DRBD_COMMON = "/etc/drbd.d/global_common.conf"
REJECT = '"r|^/dev/drbd|"'
BEGIN = "# >>> xenhelper tune --write: goes when the package is removed"
END = "# <<< xenhelper tune --write"

FILE, BLOCK, SHOW = "file", "block", "show"


@dataclass(frozen=True)
class Facts:
    """``xen_command_line`` and ``virt_caps`` as ``xl info`` says them, None without Xen;
    ``global_filter``: LVM's, '' when none is set; ``drbd_pvs``: physical volumes on DRBD
    devices that are this host's own, not a guest's; ``drbd_service``: its is-enabled
    state; the rest are files' texts."""

    xen_command_line: str | None = None
    virt_caps: str = ""
    grub: str = ""
    xl_conf: str = ""
    global_filter: str = ""
    drbd_pvs: tuple[str, ...] = ()
    xendomains: str = ""
    drbd_service: str = ""


@dataclass(frozen=True)
class Advice:
    """``text`` belongs into ``path``. ``kind``: a file of ours, a marked block, or only
    shown. ``written``: it stands there, and waits for ``after``."""

    name: str
    path: str
    text: str
    kind: str
    severity: str
    what: str
    after: str = ""
    written: bool = False


def decide(facts: Facts, asked: Tuning) -> list[Advice]:
    """What is missing, in the order of what it would cost."""
    found = [
        advice for advice in (_lvm(facts), _xendomains(facts), _drbd(facts), _grub(facts, asked)) if advice
    ]
    line = facts.xen_command_line
    balloons = _value(facts.xl_conf, "autoballoon") not in ("off", "0")
    if asked.dom0_memory and balloons and line is not None and "dom0_mem=" not in line:
        what = "xl takes memory from dom0 for each guest (autoballoon), against dom0_memory"
        found.append(Advice("autoballoon", XL_CONF, 'autoballoon="off"', BLOCK, "warning", what))
    return found


def _lvm(facts: Facts) -> Advice | None:
    if "drbd" in facts.global_filter:
        return None
    what = "LVM looks into guests' disks (/dev/drbd*): a guest's own volume group can hold one open"
    entries = ", ".join([*(f'"a|^{name}$|"' for name in facts.drbd_pvs), REJECT])
    text = f"devices {{\n\tglobal_filter = [ {entries} ]\n}}"
    if facts.global_filter:
        add = f"add {entries} first in {facts.global_filter}"
        return Advice("LVM filter", "/etc/lvm/lvm.conf", add, SHOW, "hint", what)
    # udev's rules keep what looks by itself away: this is for commands that people type
    return Advice("LVM filter", LVM_LOCAL, text, BLOCK, "hint", what)


def _xendomains(facts: Facts) -> Advice | None:
    problem = xendomains.problem(facts.xendomains)
    if not problem:
        return None
    text = 'XENDOMAINS_SAVE=""\nXENDOMAINS_RESTORE=false'
    return Advice("xendomains", xendomains.PATH, text, SHOW, "error", problem)


def _drbd(facts: Facts) -> Advice | None:
    if facts.drbd_service != "enabled":
        return None
    what = "drbd.service is enabled: at boot it may wait for ever for a peer of some foreign resource"
    text = "common { startup { wfc-timeout 10; degr-wfc-timeout 10; } }"
    after = "or `systemctl disable drbd.service`: xenhelper-resources brings ours up"
    return Advice("wfc-timeout", DRBD_COMMON, text, SHOW, "warning", what, after)


def _grub(facts: Facts, asked: Tuning) -> Advice | None:
    """One drop-in for all that Xen's command line should have; what is there is in it,
    too, since the file is written whole."""
    if facts.xen_command_line is None:
        return None
    words, wanted, why, severity = facts.xen_command_line.split(), [], [], "hint"
    count = len(cpu_set(asked.dom0_cpus))
    if asked.dom0_memory:
        wanted.append(f"dom0_mem={asked.dom0_memory}M,max:{asked.dom0_memory}M")
        if wanted[-1] not in words:
            why.append("dom0 has its memory from the start, and can't be squeezed")
    if count:
        wanted.append(f"dom0_max_vcpus={count}")
        if wanted[-1] not in words:
            why.append("no more virtual CPUs than dom0 has real ones")
    if asked.pci_passthrough:
        wanted.append("iommu=1")
        if "directio" not in facts.virt_caps:
            severity = "warning"
            why.append(
                "the IOMMU is off, which PCI passthrough needs: VT-d or AMD-Vi must be on in the firmware, "
                "too; PV guests then want e820_host=1 (pci_pt_e820_access=on of old)"
            )
    if not why:
        return None
    text = f'GRUB_CMDLINE_XEN_DEFAULT="$GRUB_CMDLINE_XEN_DEFAULT {" ".join(wanted)}"'
    written = text in facts.grub
    return Advice(
        "Xen's command line", GRUB, text, FILE, severity, "; ".join(why),
        "`update-grub`, then a reboot", written,
    )  # fmt: skip


def _value(text: str, key: str) -> str:
    """The last ``key=value`` of a file of such lines, without quotes."""
    found = re.findall(rf"^\s*{key}\s*=\s*[\"']?([^\"'#\s]*)", text, re.MULTILINE)
    return found[-1] if found else ""


def facts() -> Facts:
    """Read this host. What can't be asked is as if nothing were set."""
    info: dict[str, str] | None = None
    if os.path.exists(paths.ROOT + "/sys/hypervisor/version/major"):
        try:
            said = run([domains.real_xl(), "info"], timeout=15).stdout
            info = {
                key.strip(): value.strip() for key, _, value in (x.partition(":") for x in said.splitlines())
            }
        except XenhelperError:
            info = None
    return Facts(
        xen_command_line=info.get("xen_commandline", "") if info is not None else None,
        virt_caps=(info or {}).get("virt_caps", ""),
        grub=_text(GRUB),
        xl_conf=_text(XL_CONF),
        global_filter=_said(["lvmconfig", "devices/global_filter"]),
        drbd_pvs=own_pvs(_said(["pvs", "--noheadings", "-o", "pv_name"]), beneath.records().values()),
        xendomains=xendomains.text(),
        drbd_service=_said(["systemctl", "is-enabled", "drbd.service"]),
    )


def own_pvs(said: str, records: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """The DRBD devices among pvs's lines that aren't guests' disks."""
    guests = {f"/dev/drbd{record.get('minor', '')}" for record in records}
    return tuple(name for name in said.split() if re.fullmatch(r"/dev/drbd\d+", name) and name not in guests)


def _said(argv: list[str]) -> str:
    try:
        return run(argv, timeout=15, ok=None).stdout.strip()
    except XenhelperError:
        return ""


def _text(path: str) -> str:
    try:
        with open(paths.ROOT + path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def write(found: list[Advice], dry_run: bool = False) -> tuple[list[str], list[str]]:
    """(what was written, or would be; what couldn't), a line each; what is only shown is
    left out. Running it again changes nothing."""
    changed, failed = [], []
    for advice in found:
        if advice.kind == SHOW or advice.written:
            continue
        path = os.path.realpath(paths.ROOT + advice.path)
        try:
            text = _with_block(_text(advice.path), advice.text)
            if advice.kind == FILE:
                text = f"{BEGIN}\n{advice.text}\n"
            if not dry_run:
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
                statefile.write_atomically(path, text.encode(errors="surrogateescape"), 0o644)
            changed.append(
                f"{advice.path}: {advice.name}" + (f"; then {advice.after}" if advice.after else "")
            )
        except (OSError, XenhelperError) as error:
            failed.append(f"{advice.path}: {error}")
    return changed, failed


def _with_block(text: str, block: str) -> str:
    """``text`` with our marked block at its end, an older one of ours taken out."""
    rest = re.sub(rf"^{re.escape(BEGIN)}\n.*?^{re.escape(END)}\n", "", text, flags=re.MULTILINE | re.DOTALL)
    gap = "" if not rest or rest.endswith("\n") else "\n"
    return f"{rest}{gap}{BEGIN}\n{block}\n{END}\n"
