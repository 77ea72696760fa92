"""DRBD: resource files, the kernel's state and settings, and the verbs that change them."""
