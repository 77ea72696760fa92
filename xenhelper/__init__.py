"""xenhelper: DRBD-replicated disks for Xen guests, made and moved by plain ``xl``."""

__version__ = "0.1.0"
