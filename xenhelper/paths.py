"""Every path that xenhelper reads or writes, in one place.

Tests point :data:`ROOT` at a folder of their own through ``XENHELPER_ROOT``; on a
host it is empty. Programs are found through :data:`PATH`, never the caller's.
"""

import os

ROOT = os.environ.get("XENHELPER_ROOT", "")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

CONFIG = ROOT + "/etc/xenhelper/xenhelper.conf"
PEER_KEY = ROOT + "/etc/xenhelper/peer_key"
PEER_KNOWN_HOSTS = ROOT + "/etc/xenhelper/known_hosts"
DRBD_D = ROOT + "/etc/drbd.d"
DRBD_CONF = ROOT + "/etc/drbd.conf"
LVM = ROOT + "/etc/lvm"  # where LVM keeps a group's metadata before each change

STATE = ROOT + "/var/lib/xenhelper"
INTENTS = STATE + "/intents"
RESOURCES = STATE + "/resources"
VMS = STATE + "/vms"

RUN = ROOT + "/run/xenhelper"
LOCKS = RUN + "/locks"
PERMITS = RUN + "/permits"
CRASH_AT = RUN + "/crash-at"  # tests only: see crash.py
STOPPING = RUN + "/stopping"  # this host is shutting down: no disk is given out any more

XENSTORED_SOCKET = ROOT + "/run/xenstored/socket"
LIBEXEC = "/usr/lib/xenhelper"
BLOCK_SCRIPT = "block-xenhelper"


def crash(when: str) -> None:
    """A test has armed a crash (:data:`CRASH_AT` is there): see whether it is here."""
    from xenhelper import crash as armed

    armed.at(when)
