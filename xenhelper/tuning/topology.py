"""Read-ahead and file system geometry from how a volume is striped. Pure.

Stacked queue limits aren't used: the kernel combines them with lcm(), which gives absurd
values over unequal members, and DRBD and blkback pass on part of them only.
"""

from dataclasses import dataclass

# KiB. Below the first a stripe is read in pieces; above the second one blkfront ring
# (64 requests of 64 KiB) is full already, and memory is read that nobody asks for.
LEAST, MOST = 1024, 4096
# a chunk that md or LVM could have: powers of two aside, 4 KiB to 1 GiB
_CHUNKS = range(4, 1024 * 1024 + 1)
_MEMBERS = range(1, 1025)
BLOCK_KIB = 4  # ext4's block


@dataclass(frozen=True)
class Stripes:
    """``data_disks`` devices are read in turn, ``chunk_kib`` KiB from each. ``text`` says
    what it was computed from: ``raid5 of 4, 512 KiB (md0)``."""

    chunk_kib: int
    data_disks: int
    text: str = ""

    @property
    def width_kib(self) -> int:
        """KiB that touch every data disk once."""
        return self.chunk_kib * self.data_disks


def md(level: str, members: int, chunk_kib: int, layout: int = 0, name: str = "") -> Stripes | None:
    """The stripes of an md array, or of LVM's RAID, which is md's code as well. None for
    a mirror, and for numbers that no array has.

    Data disks as the kernel counts them for its optimal IO size (raid0.c, raid5.c,
    raid10_nr_stripes() in raid10.c): raid10's copies that lie near each other share a
    stripe, far ones don't; near copies that don't divide the members make it all of them.
    """
    if members not in _MEMBERS or chunk_kib not in _CHUNKS:
        return None
    if level == "raid0":
        disks = members
    elif level in ("raid4", "raid5"):
        disks = members - 1
    elif level == "raid6":
        disks = members - 2
    elif level == "raid10":
        near = layout & 0xFF or 1
        disks = members if members % near else members // near
    else:
        return None
    if disks < 1:
        return None
    what = f"{level} of {members}, {chunk_kib} KiB"
    return Stripes(chunk_kib, disks, f"{what} ({name})" if name else what)


def lvm(stripes: int, chunk_kib: int, below: Stripes | None) -> Stripes | None:
    """An LVM striped volume over devices that are each like ``below`` (None: no stripes).

    To touch every disk below, a read must span a chunk on each device and, within it,
    the device's own width.
    """
    if stripes not in _MEMBERS or chunk_kib not in _CHUNKS or stripes == 1:
        return below
    what = f"LVM stripes: {stripes}, {chunk_kib} KiB"
    if below is None:
        return Stripes(chunk_kib, stripes, what)
    each = max(1, chunk_kib // below.chunk_kib, below.data_disks)
    return Stripes(below.chunk_kib, stripes * each, f"{what} over {below.text}")


def widest(found: list[Stripes | None]) -> Stripes | None:
    """Of a volume's parts the one that needs most; None when none has stripes."""
    striped = [part for part in found if part is not None]
    return max(striped, key=lambda part: part.width_kib, default=None)


def read_ahead_kib(stripes: Stripes | None, rotational: bool) -> int:
    """Read-ahead for sequential readers: two whole stripes, bounded; where nothing is
    striped, or seeks cost nothing, what one blkfront ring holds in flight."""
    if stripes is None or not rotational:
        return MOST
    return min(MOST, max(LEAST, 2 * stripes.width_kib))


def why(stripes: Stripes | None, rotational: bool) -> str:
    """What :func:`read_ahead_kib` went by, in a few words."""
    if not rotational:
        return "SSD"
    if stripes is None:
        return "no stripes"
    return f"2 x {stripes.data_disks} x {stripes.chunk_kib} KiB: {stripes.text}"


def ext4(stripes: Stripes | None, block_kib: int = BLOCK_KIB) -> tuple[int, int] | None:
    """(stride, stripe_width) in file system blocks for mkfs.ext4 and tune2fs (mke2fs(8));
    None where there is nothing to align to. ext4 holds the stride in 16 bits."""
    if stripes is None or stripes.chunk_kib % block_kib:
        return None
    stride = stripes.chunk_kib // block_kib
    if stride > 65535 or stride * stripes.data_disks >= 1 << 31:
        return None
    return stride, stride * stripes.data_disks
