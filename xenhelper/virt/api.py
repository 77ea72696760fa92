"""libvirt itself, by its own Python library: definitions, and whether it is at work on a VM.

Not for the hook: libvirt holds the domain's lock while a hook runs, and asking it then
would wait for ever. For the same reason every question here is bounded: one about a VM
whose hook runs at this moment isn't answered before that has ended.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from xenhelper.errors import Refused, XenhelperError

T = TypeVar("T")
URI = "xen:///system"
_TIMEOUT = 10.0
# what activity() says
BUSY, IDLE, UNKNOWN = "busy", "idle", "unknown"
_DAEMON = "`systemctl status libvirtd`"


class NotThere(XenhelperError):
    """There is no libvirt for Xen on this host."""


def bounded(work: "Callable[[], T]", seconds: float) -> T:
    """What ``work`` returns or raises. Raises TimeoutError; its thread is left to itself then."""
    done: "list[tuple[T | None, BaseException | None]]" = []

    def body() -> None:
        try:
            done.append((work(), None))
        except BaseException as error:
            done.append((None, error))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(seconds)
    if not done:
        raise TimeoutError
    result, error = done[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _library() -> Any:
    try:
        import libvirt
    except ImportError as error:
        raise NotThere("python3-libvirt isn't installed", "`apt install python3-libvirt`") from error
    libvirt.registerErrorHandler(lambda *_: None, None)  # it prints on stderr otherwise
    return libvirt


def connect(seconds: float = _TIMEOUT) -> "tuple[Any, Any]":
    """(the library, a connection). Raises NotThere, or XenhelperError when it doesn't answer."""
    libvirt = _library()
    try:
        return libvirt, bounded(lambda: libvirt.open(URI), seconds)
    except TimeoutError:
        raise XenhelperError(f"libvirt doesn't answer within {seconds:g} s", _DAEMON) from None
    except libvirt.libvirtError as error:
        raise NotThere(
            f"libvirt has no {URI} on this host: {error}",
            f"{_DAEMON}; it needs the package libvirt-daemon-driver-xen",
        ) from error


def _ask(work: "Callable[[Any, Any], T]") -> T:
    libvirt, connection = connect()
    try:
        return bounded(lambda: work(libvirt, connection), _TIMEOUT)
    except TimeoutError:
        raise XenhelperError("libvirt doesn't answer: it is at work on this VM", "try again") from None
    except libvirt.libvirtError as error:
        raise XenhelperError(f"libvirt: {error}") from error


def _find(libvirt: Any, connection: Any, vm: str) -> Any:
    """The domain, or None. Raises what libvirt raises but for that it isn't there."""
    try:
        return connection.lookupByName(vm)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def definition(vm: str) -> "str | None":
    """The XML that the next start takes, passwords included; None when it isn't defined here."""

    def work(libvirt: Any, connection: Any) -> "str | None":
        domain = _find(libvirt, connection, vm)
        if domain is None or not domain.isPersistent():
            return None
        return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))

    return _ask(work)


def require_stopped(vm: str) -> None:
    """Raises Refused while it runs by libvirt on this host, or has a saved image to go on from."""

    def work(libvirt: Any, connection: Any) -> "tuple[bool, bool]":
        domain = _find(libvirt, connection, vm)
        if domain is None:
            return False, False
        return bool(domain.isActive()), bool(domain.isPersistent() and domain.hasManagedSaveImage())

    active, saved = _ask(work)
    if active:
        raise Refused(f"{vm} runs at libvirt", f"`virsh shutdown {vm}` first")
    if saved:
        raise Refused(
            f"{vm} has an image of its memory at libvirt that belongs to its disks as they are",
            f"`virsh start {vm}` and shut it down, or `virsh managedsave-remove {vm}`",
        )


def define(xml: str) -> None:
    """Define a domain, or change its definition. Raises XenhelperError."""
    _ask(lambda libvirt, connection: connection.defineXML(xml) and None)


def undefine(vm: str) -> None:
    """Take a definition away; nothing when there is none. Raises XenhelperError."""

    def work(libvirt: Any, connection: Any) -> None:
        domain = _find(libvirt, connection, vm)
        if domain is not None:
            domain.undefine()

    _ask(work)


def activity(vm: str, seconds: float = 5.0) -> "tuple[str, float]":
    """(BUSY, IDLE or UNKNOWN; for how many seconds its job has run) of ``vm`` at libvirt.

    A start, a stop, a migration in or out and a save are jobs of the domain for all their
    time (virDomainObjBeginJob). A question that isn't answered finds the domain's lock taken.
    """
    try:
        libvirt, connection = connect(seconds)
    except NotThere:
        return IDLE, 0.0  # without its daemon nothing goes on
    except XenhelperError:
        return UNKNOWN, 0.0

    def work() -> "tuple[str, float]":
        domain = _find(libvirt, connection, vm)
        if domain is None:
            return IDLE, 0.0
        kind, elapsed = domain.jobInfo()[:2]
        return (IDLE, 0.0) if kind == libvirt.VIR_DOMAIN_JOB_NONE else (BUSY, elapsed / 1000)

    try:
        return bounded(work, seconds)
    except TimeoutError:
        return BUSY, 0.0
    except libvirt.libvirtError:
        return UNKNOWN, 0.0
