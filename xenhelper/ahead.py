"""A migration's source lets its disks go as soon as blkback has: ahead of libxl's `remove`.

Until the source has stepped down both hosts are Primary. libxl starts a block script for each
disk then, beside the network's, and a Python's start is most of what such a script takes; the
shim runs already. What it does is the script's own function, at the moment that libxl starts
the script at, and the script finds it done. Where the shim is killed, or this fails, the script
does it as it would have.
"""

from xenhelper import hotplug, letgo, names
from xenhelper.errors import XenhelperError
from xenhelper.xen.xenstore import Xenstore

# XenbusStateClosed (xen/include/public/io/xenbus.h)
_CLOSED = "6"
# far below what the script waits for the resource's lock
_SECONDS = 6.0


class Leaving:
    """The disks of one domain on this host, as xenstore has them."""

    def __init__(self, store: Xenstore, domid: int, resources: "list[str]") -> None:
        self._store = store
        self._domid = domid
        self._left = set(resources)
        # its events come to the connection's owner, who calls look() then
        store.watch(f"backend/vbd/{domid}", "xh-away")

    def look(self) -> None:
        """Step down from each disk that blkback has closed for good.

        Only once xl has named the domain as one that has moved away, and libxl has said that
        the disk won't be connected again (``online`` 0): a guest that goes on here after a
        migration that failed has its disks closed for a moment, too.
        """
        if not self._left:
            return
        name = self._store.read(f"/local/domain/{self._domid}/name") or ""
        if not name.endswith(names.MIGRATED_AWAY):
            return
        for number in self._store.list(f"backend/vbd/{self._domid}"):
            base = f"backend/vbd/{self._domid}/{number}"
            resource = self._store.read(base + "/params") or ""
            if resource in self._left and self._closed(base):
                self._left.discard(resource)
                self._let_go(base)

    def _closed(self, base: str) -> bool:
        return self._store.read(base + "/online") == "0" and self._store.read(base + "/state") == _CLOSED

    def _let_go(self, base: str) -> None:
        try:
            letgo.remove(hotplug.Disk(self._store, base), 0.0, _SECONDS)
        except (XenhelperError, OSError):
            pass  # libxl's `remove` is at it, or comes next: it says what is wrong
