"""The programs that the product starts, by argv[0].

A command that may wait in the kernel is a process of its own, which a kill doesn't end.
"""

from tests.sim import drbdsetup
from tests.sim.drbdadm import drbdadm
from tests.sim.xlcommands import SHIM, XL, shim, virsh, xl

TOOLS = {"drbdsetup": drbdsetup.drbdsetup, "drbdadm": drbdadm, XL: xl, SHIM: shim, "virsh": virsh}


def waits(argv: "list[str]") -> bool:
    """Whether the command may wait in the kernel or for other programs."""
    if argv[0] == "drbdsetup":
        return argv[1] in drbdsetup.WAITS
    return argv[0] in (SHIM, "virsh") or (argv[0] == XL and argv[1] == "destroy")
