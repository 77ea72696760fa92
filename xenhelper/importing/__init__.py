"""``xenhelper import``: a VM that is off comes here from a server that has no xenhelper.

``far`` reaches the old server, ``look`` reads what it says, ``find`` asks all three hosts,
``plan`` decides, ``mend`` fits the config to this host, ``copy`` brings one disk's bytes and
compares them (``sums``), ``whole`` all disks' until nothing differs; ``story`` is the whole of it.

How often what is read, and why. The old server reads each byte once, to send it; ssh guards
it on its way, and the SHA-256 of each chunk as it came is kept on disk (``sums``) once the
chunk itself is. When all is here, this host's disk is read back past every cache and each
chunk compared with its sum. That proves what was there when it was read; that it is so still
is proven by the old kernel's own count of writes to that device (or by the image file's times),
taken before the first byte and after the last one. Only where that can't prove it (the server was
booted in between, its kernel doesn't number its disks, somebody did write) does it read a
second time, for the sums alone, and what differs is copied anew.
"""
