"""Names that come from outside (configs, xenstore, the peer), checked before use.

DRBD, LVM, xenstore and file names are all narrower than what xl accepts: what passes
here can stand in each of them, in a path and in an argument list.
"""

from xenhelper.errors import UsageError

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-")
_DOTTED = _LETTERS | frozenset(".")
MAX_RESOURCE = 100
MAX_VM = 90
# suffixes that xl gives to a domain in the middle of a migration (xl_migrate.c)
INCOMING = "--incoming"
MIGRATED_AWAY = "--migratedaway"


def valid_resource(name: str) -> bool:
    """Whether ``name`` may be a DRBD resource's (and so part of a device path)."""
    return 0 < len(name) <= MAX_RESOURCE and name[0] not in "-+" and _LETTERS.issuperset(name)


def check_resource(name: str) -> str:
    """``name`` itself. Raises UsageError."""
    if not valid_resource(name):
        raise UsageError(
            f"{name[:120]!r} can't be a resource's name", "letters, digits, '_', '+' and '-' only"
        )
    return name


def valid_vm(name: str) -> bool:
    """Whether xenhelper can manage a VM of this name (dots are mapped, see resource_name)."""
    return (
        0 < len(name) <= MAX_VM
        and name[0] not in "-+."
        and _DOTTED.issuperset(name)
        and ".." not in name
        and not name.endswith((INCOMING, MIGRATED_AWAY))
    )


def check_vm(name: str) -> str:
    """``name`` itself. Raises UsageError."""
    if not valid_vm(name):
        raise UsageError(
            f"VM name {name[:120]!r} can't be replicated",
            f"use at most {MAX_VM} letters, digits, '_', '+', '-' or '.', not '-' or '.' first",
        )
    return name


def valid_host(name: str) -> bool:
    """Whether ``name`` may be a host's name (``uname -n``)."""
    return 0 < len(name) <= 64 and name[0] not in "-." and frozenset(_DOTTED - {"+"}).issuperset(name)


def valid_vdev(vdev: str) -> bool:
    """Whether ``vdev`` is a plain virtual device name such as xvda, sdb2, hdc, d0p1."""
    return 0 < len(vdev) <= 16 and vdev.isascii() and vdev.isalnum() and vdev[0].isalpha()


def resource_name(vm: str, vdev: str) -> str:
    """The resource of disk ``vdev`` of ``vm``: dots (which LVM tags and DRBD device names
    hold badly) become ``_``. Two VMs that map to one name are told apart at allocation."""
    return check_resource(vm.replace(".", "_") + "-" + vdev)


def base_vm(domain: str) -> str:
    """The VM behind a domain's name, whichever end of a migration it is."""
    for suffix in (INCOMING, MIGRATED_AWAY):
        if domain.endswith(suffix):
            return domain[: -len(suffix)]
    return domain
