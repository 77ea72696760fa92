"""A volume that isn't where its resource has it: renamed, not active, or gone; in one line."""

import os

from xenhelper import paths, volumes
from xenhelper.errors import XenhelperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def missing(record: "Mapping[str, str]") -> str:
    """The path of the resource's data or metadata volume that isn't there; '' if both are."""
    for key in ("volume", "meta"):
        path = record.get(key, "")
        # metadata may be "internal"
        if path.startswith("/") and not os.path.exists(paths.ROOT + path):
            return path
    return ""


def explain(
    record: "Mapping[str, str]", path: str, known: "Iterable[volumes.Volume]"
) -> "XenhelperError | None":
    """What became of ``path`` (of :func:`missing`), by the tags of this host's volumes; None
    when it is there after all (pure)."""
    resource = record.get("resource", "")
    wanted = path == record.get("meta")
    for volume in known:
        if volume.tag("resource") != resource or volume.is_meta != wanted:
            continue
        if volume.path != path:
            return XenhelperError(
                f"{resource}: {path} is gone; by its tag it is called {volume.path} now",
                f"name it back: `lvrename {volume.full_name} {path.rsplit('/', 1)[-1]}`",
            )
        if volume.device is None:
            return XenhelperError(f"{resource}: {path} isn't active", f"`lvchange -ay {volume.full_name}`")
        return None
    return XenhelperError(
        f"{resource}: {path} is gone, and no volume bears its tag",
        "is its disk or volume group missing (`pvs`, `vgs`)? "
        f"Else {record.get('peer', 'the other host')} has the data",
    )
