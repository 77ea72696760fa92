"""The two block scripts by themselves, called as libxl calls them, in turns on one host."""

from __future__ import annotations

from tests.lab import product, scenario
from tests.lab.lab import Lab

from . import byhand
from .rows import Samples

ROUNDS = 20
# bash's own clock: no fork within what is timed
_SCRIPT = """
export XENBUS_TYPE=vbd XENBUS_BASE_PATH=backend
disk() {  # side domid resource script
    p=backend/vbd/$2/51712
    xenstore-write /local/domain/$2/name bench$2 $p/params $3 $p/script $4 $p/mode w $p/type phy \\
        $p/frontend-id $2 $p/frontend /local/domain/$2/device/vbd/51712 $p/online 1 $p/dev xvda
}
call() {  # side domid script command
    begun=$EPOCHREALTIME
    XENBUS_PATH=backend/vbd/$2/51712 script=$3 "$3" $4 </dev/null >/dev/null 2>/run/bench.err
    status=$?
    ended=$EPOCHREALTIME
    echo "$1 $4 $((${ended/./} - ${begun/./})) $status $(tr '\\n' ' ' </run/bench.err)"
}
disk ours 901 @OURS@ block-xenhelper
disk theirs 902 @THEIRS@ block-drbd
for round in $(seq @ROUNDS@); do
    for command in add remove; do
        call ours 901 /etc/xen/scripts/block-xenhelper $command
        call theirs 902 /etc/xen/scripts/block-drbd $command
    done
    for domid in 901 902; do
        xenstore-rm backend/vbd/$domid/51712/physical-device 2>/dev/null
    done
done
xenstore-rm backend/vbd/901; xenstore-rm backend/vbd/902
xenstore-rm /local/domain/901; xenstore-rm /local/domain/902
"""


class NotMeasured(Exception):
    """A call that is timed failed: there is nothing to compare."""


def run(lab: Lab, rounds: int = ROUNDS) -> dict[str, Samples]:
    """Rows ``add`` and ``remove``."""
    lab.reset("paired")
    scenario.write_web1(lab)
    lab.alice.run("xenhelper replicate /etc/xen/web1.cfg", timeout=300)
    byhand.build(lab)
    product.wait_in_sync(lab.alice, "web1-xvda", *byhand.RESOURCES)
    script = (
        _SCRIPT.replace("@OURS@", "web1-xvda")
        .replace("@THEIRS@", byhand.RESOURCES[0])
        .replace("@ROUNDS@", str(rounds))
    )
    lab.alice.write("/root/bench.sh", script)
    return parse(lab.alice.run("bash /root/bench.sh", timeout=900).out)


def parse(text: str) -> dict[str, Samples]:
    """Samples by command from the script's lines. Raises NotMeasured."""
    found = {"add": Samples(), "remove": Samples()}
    for line in text.splitlines():
        side, command, micros, status, *said = line.split()
        if status != "0":
            raise NotMeasured(f"{side}: {command} exited {status}: {' '.join(said)}")
        samples = found[command]
        (samples.ours if side == "ours" else samples.theirs).append(int(micros) / 1e6)
    return found
