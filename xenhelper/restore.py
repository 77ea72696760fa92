"""``xl restore`` through the shim: not from an image that is older than the VM's disks.

A restored guest believes that its disks are as it left them. That holds only while
nobody has used them since the save, which shows in the VM's record on both hosts: when
its disks were last given out, and when they were let go.
"""

import getopt
import json
import os
from typing import Any

from xenhelper import autostart, insync, names, paths, statefile
from xenhelper.errors import Refused

_SHORT, _LONG = "FcCpedVAn", ["vncviewer", "vncviewer-autopass", "help"]
# xl_vmcontrol.c, struct save_file_header
_MAGIC = b"Xen saved domain, xl format\n \0 \r"
_MAX = 4 << 20
# seconds: libxl destroys the domain, and so lets its disks go, right after the image is written
_LETTING_GO = 300.0
_GRAIN = 2.0


def main(argv: "list[str]") -> "list[str]":
    """What the real xl is to be run with: ``argv`` itself. Raises Refused."""
    at = next(i for i, word in enumerate(argv) if not word.startswith("-"))
    try:
        options, rest = getopt.gnu_getopt(argv[at + 1 :], _SHORT, _LONG)
    except getopt.GetoptError:
        options, rest = [], [word for word in argv[at + 1 :] if not word.startswith("-")]
    if not rest or any(option in ("-h", "--help") for option, _ in options):
        return argv
    image = rest[-1]
    saved = read_header(image)
    vm = names.base_vm(str(saved.get("name", ""))) if saved else ""
    if not saved or not names.valid_vm(vm) or not saved["resources"]:
        return argv
    record = statefile.read(f"{paths.VMS}/{vm}")
    if record is None:
        return argv
    scripted = autostart.by_xendomains()
    peer = record.get("peer", "")
    there = autostart._ask(vm, peer)
    why = stale(os.stat(image).st_mtime, record, there, peer)
    if not why:
        return argv
    if scripted and record.get("config"):
        # it ran when this host went down: start it afresh, where it belongs
        autostart.want(vm, record["config"])
    raise Refused(
        f"{image} can't be restored: {why}; {vm}'s disks have gone on since",
        f"`xl create {record.get('config') or vm}` starts it afresh; remove the image",
    )


def read_header(path: str) -> "dict[str, Any] | None":
    """{"name", "resources"} of the domain in an xl save image; None when it is something else."""
    try:
        with open(path, "rb") as file:
            head = file.read(48)
            if len(head) < 48 or head[:32] != _MAGIC:
                return None
            little = head[32:36] == b"\x04\x03\x02\x01"
            length = int.from_bytes(head[44:48], "little" if little else "big")
            body = file.read(min(length, _MAX))
        tree = json.loads(body[4:].split(b"\0")[0])
        return {
            "name": tree["c_info"]["name"],
            "resources": [
                str(disk.get("pdev_path", ""))
                for disk in tree.get("disks", [])
                if str(disk.get("script") or "").rsplit("/", 1)[-1] == paths.BLOCK_SCRIPT
            ],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stale(saved: float, here: "dict[str, str]", there: "dict[str, object] | None", peer: str) -> str:
    """Why an image of ``saved`` (seconds since 1970) doesn't fit the disks; '' when it does. Pure.

    ``here``, ``there``: the VM's record on both hosts (None: the peer is silent, and the
    block script won't promote without it anyway).
    """
    if there is not None:
        running = there.get("domains")
        if isinstance(running, list) and running:
            return f"{running[0]} runs on {peer}"
        theirs = {key: str(there.get(key, "")) for key in ("ran_at", "let_go_at")}
        if autostart.active_at(theirs) > saved + _GRAIN:
            return f"the VM ran on {peer} after it was saved"
    ran = insync.seconds(here.get("ran_at", ""))
    let_go = insync.seconds(here.get("let_go_at", ""))
    if ran is None:
        return ""
    if ran > saved + _GRAIN:
        return "the VM was started after it was saved"
    if let_go is None or let_go + _GRAIN < saved:
        return "its disks weren't let go after it was saved (or the image's file was copied: `cp -p`)"
    if let_go - saved > _LETTING_GO:
        return "the VM went on running after it was saved"
    return ""
