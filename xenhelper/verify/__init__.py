"""Both copies of a disk compared by DRBD: ``results`` keeps what was found."""
