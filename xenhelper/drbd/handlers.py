"""DRBD's handlers that drbdevent.py answers; alone here, since that imports no more than it needs."""

EVENTS = (
    "split-brain",
    "local-io-error",
    "out-of-sync",
    "pri-lost",
    "pri-lost-after-sb",
    "pri-on-incon-degr",
)
