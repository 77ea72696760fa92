"""The rewritten config of a VM: made from xl's reading, proved by xl's reading."""

from collections.abc import Mapping, Sequence

from xenhelper import vmfile
from xenhelper.consider import Considered
from xenhelper.errors import XenhelperError
from xenhelper.xen import vmconfig


def rewritten(found: Considered, resources: Mapping[str, str]) -> tuple[str, list[str]]:
    """(the file with our block, the disk specifications in it) for vdev -> resource."""
    request = found.request
    specs = []
    for disk in request.parsed.disks:
        resource = resources.get(str(disk.get("vdev")))
        specs.append(vmconfig.spec(vmconfig.replicated(disk, resource) if resource else disk))
    hosts = (found.settings.host, found.peer)
    return vmconfig.compose(request.original, request.vm, hosts, specs), specs


def prove(found: Considered, text: str, specs: Sequence[str], resources: Mapping[str, str]) -> None:
    """Have xl read the rewritten config and compare. Raises XenhelperError when anything
    but the replicated disks' targets would change."""
    request = found.request
    if not request.xl:
        return  # a definition of libvirt's: it is proved when it is defined (virt/adopt.py)
    shown, extra = (text, []) if request.stored else (request.original, [vmconfig.override(specs)])
    with vmconfig.Scratch(shown) as path:
        after = vmconfig.dry_run(request.xl, path, [*request.overrides, *extra])
    wrong = vmconfig.difference(request.parsed, after, resources)
    if wrong:
        raise XenhelperError(
            f"{request.vm}: the rewritten config would change {wrong}, so it isn't used",
            "please report it with the config",
        )


def drop_block(found: Considered) -> bool:
    """Policy replicates none of the VM's disks (any more): a block that still pins them
    to resources goes out of the file. Returns whether there was one."""
    request = found.request
    if not request.stored or request.text == request.original or found.left_out:
        return False
    vmfile.store(request.path, request.original)
    return True
