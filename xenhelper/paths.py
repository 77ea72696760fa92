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

STATE = ROOT + "/var/lib/xenhelper"
INTENTS = STATE + "/intents"
RESOURCES = STATE + "/resources"
VMS = STATE + "/vms"

RUN = ROOT + "/run/xenhelper"
LOCKS = RUN + "/locks"
PERMITS = RUN + "/permits"

XENSTORED_SOCKET = ROOT + "/run/xenstored/socket"
LIBEXEC = "/usr/lib/xenhelper"
BLOCK_SCRIPT = "block-xenhelper"
