"""Sizes as people read them."""

MIB = 1024**2
GIB = 1024**3


def size(octets: int) -> str:
    """``octets`` bytes in GiB, below one in MiB: a swap of 96 MiB isn't "0.1 GiB"."""
    return f"{octets / GIB:.1f} GiB" if octets >= GIB else f"{octets / MIB:.0f} MiB"
