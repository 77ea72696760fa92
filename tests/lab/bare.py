"""The layer ``replicated``: one resource on both hosts in sync, as the product makes it, but
with no product there that could act on it. What the contract tests start from.

The file is the product's own, byte for byte. In place of the product's handlers and block
script are small ones that note how they were called and end as they are told to.
"""

from __future__ import annotations

import hashlib
import re

from xenhelper.drbd import resfile

from .host import Host
from .lab import Lab
from .wait import wait_until

VM, VDEV = "web1", "xvda"
RESOURCE, MINOR, PORT = f"{VM}-{VDEV}", 1000, 7800
GROUP, SIZE_MIB = "vg0", 64
VOLUME, META = f"/dev/{GROUP}/{RESOURCE}", f"/dev/{GROUP}/{RESOURCE}_xhmeta"
ADDRESSES = {"alice": "10.99.0.1", "bob": "10.99.0.2"}
NOTES = "/run/contract"

HANDLER = f"""\
#!/bin/sh
# notes that DRBD called it; ends with the status that is written there, else refuses
mkdir -p {NOTES}
echo "$DRBD_RESOURCE" >> {NOTES}/fence-calls
exit "$(cat {NOTES}/fence-status 2>/dev/null || echo 1)"
"""
SCRIPT = f"""\
#!/bin/sh
# the least a block script does: promote and publish, demote
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p {NOTES}
domid=$(xenstore-read "$XENBUS_PATH/frontend-id")
name=$(xenstore-read "/local/domain/$domid/name")
echo "$1 $(xenstore-read "$XENBUS_PATH/params") $name" >> {NOTES}/script-calls
if [ "$1" = remove ]; then
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        drbdsetup secondary {MINOR} && exit 0
        sleep 1
    done
    exit 1
fi
[ ! -e {NOTES}/script-fails ] || exit 1
drbdsetup primary {MINOR} || exit 1
xenstore-write "$XENBUS_PATH/physical-device-path" /dev/drbd{MINOR} \\
    "$XENBUS_PATH/physical-device" "$(stat -c %t:%T /dev/drbd{MINOR})" \\
    "$XENBUS_PATH/hotplug-status" connected
"""
CONFIG = f"""\
name = "{VM}"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/guest.img"
cmdline = "console=hvc0 quiet mitigations=off xh.rate=5"
memory = 96
disk = ['script=block-xenhelper,vdev={VDEV},access=rw,target={RESOURCE}']
vif = ['bridge=xenbr0']
on_crash = "preserve"
"""


def resource_file() -> str:
    """What the product would write for this resource."""
    one, other = (resfile.End(host, address, VOLUME, META) for host, address in ADDRESSES.items())
    return resfile.render(VM, [resfile.Entry(RESOURCE, MINOR, PORT, "0123456789abcdef" * 2, (one, other))])


def key(lab: Lab) -> str:
    """What the layer is made from."""
    parts = (resource_file(), HANDLER, SCRIPT, CONFIG, _VOLUMES, _START)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


_VOLUMES = f"""
lvcreate -q -y -Wy -L {SIZE_MIB}M -n {RESOURCE} {GROUP}
lvcreate -q -y -Wy -L 4M -n {RESOURCE}_xhmeta {GROUP}
dd if=/dev/zero of={META} bs=1M count=4 oflag=direct status=none
modprobe drbd; modprobe xen-blkback
drbdmeta --force {MINOR} v08 {META} flex-external create-md
drbdadm -c /etc/drbd.d/{VM}.res up {RESOURCE}
"""
# both volumes hold zeros: no first sync is needed
_START = f"drbdsetup new-current-uuid --clear-bitmap {MINOR}"


def build(lab: Lab) -> None:
    """From hosts that have their volume groups."""
    lab.both(_prepare)
    wait_until(lambda: " cs:Connected " in lab.alice.read("/proc/drbd"), 60, "both to connect")
    lab.alice.run(_START)
    synced = re.compile(r"cs:Connected ro:Secondary/Secondary ds:UpToDate/UpToDate")
    for host in lab.hosts:
        wait_until(lambda host=host: synced.search(host.read("/proc/drbd")), 60, f"{host.name} in sync")


def _prepare(host: Host) -> None:
    host.write(f"/etc/drbd.d/{VM}.res", resource_file())
    host.write(f"/etc/xen/{VM}.cfg", CONFIG)
    host.run("mkdir -p /usr/lib/xenhelper")
    for path, text in (
        ("/usr/lib/xenhelper/fence-peer", HANDLER),
        ("/usr/lib/xenhelper/drbd-event", "#!/bin/sh\nexit 0\n"),
        ("/etc/xen/scripts/block-xenhelper", SCRIPT),
    ):
        host.write(path, text)
        host.run(f"chmod 755 {path}")
    host.run(f"set -e{_VOLUMES}", timeout=180)
