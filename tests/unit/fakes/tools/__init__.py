"""Stand-ins for xl, LVM and DRBD's tools: one program under many names, with state on disk.

The world is a folder with a root folder per host. LVM's state is WORLD/HOST.lvm.json, the
kernels' DRBD state WORLD/drbd.json; /proc/drbd of both hosts is written from it. Every
call is counted in WORLD/calls, and WORLD/fault (``N kill``, ``N kill-after``, ``N fail``,
``N power`` or ``fail TEXT``, ``power TEXT``) makes the Nth, or one whose command line holds TEXT, go wrong.
"""
