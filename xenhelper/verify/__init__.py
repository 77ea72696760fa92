"""``xenhelper verify``: both copies of a disk are compared by DRBD, and what differs is
copied from the side that a person names. ``kernel`` reads what the kernel says of it,
``results`` keeps it, ``drive`` runs one comparison, ``schedule`` says whose turn it is,
``stop`` makes way for a change, ``repair`` mends."""
