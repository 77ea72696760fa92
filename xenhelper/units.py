"""Sizes as people read them."""

MIB = 1024**2
GIB = 1024**3


def size(octets: int) -> str:
    """``octets`` bytes in GiB, below one in MiB: a swap of 96 MiB isn't "0.1 GiB"."""
    if octets >= GIB:
        return f"{octets / GIB:.1f} GiB"
    # 16.5 MiB with small extents: 16 is what a person takes for another size
    return f"{octets / MIB:.1f} MiB" if octets % MIB else f"{octets / MIB:.0f} MiB"
