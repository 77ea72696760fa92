"""What must run, and who must reach whom."""

from xenhelper.doctor.finding import ERROR, WARNING, Finding
from xenhelper.doctor.pair import Pair

_FIX = "`xenhelper doctor --fix` on {}"


def check(pair: Pair) -> list[Finding]:
    """Findings of both hosts' services, ssh and xendomains."""
    found = []
    for facts in pair.both:
        host = facts.host
        other = pair.peer if host == pair.here.host else pair.here.host
        for unit, state in sorted(facts.units.items()):
            enabled, _, active = state.partition(" ")
            # a timer's own state, and a daemon's; a oneshot unit is active once it has run
            if enabled not in ("enabled", "enabled-runtime"):
                found.append(
                    Finding(
                        ERROR,
                        host,
                        None,
                        f"{host}: {unit} isn't enabled ({enabled}): it won't run after a boot",
                        _FIX.format(host),
                    )
                )
            elif active not in ("active", "activating", "reloading"):
                do = f"`systemctl start {unit}`; `journalctl -u {unit}` if it doesn't stay"
                found.append(Finding(ERROR, host, None, f"{host}: {unit} is {active}", do))
        if facts.shim != "ours":
            found.append(
                Finding(
                    ERROR,
                    host,
                    None,
                    f"{host}: /usr/local/sbin/xl is {facts.shim or 'unknown'}, so `xl create` and `xl "
                    "migrate` go past xenhelper",
                    _FIX.format(host) if facts.shim == "missing" else "move it away, then `doctor --fix`",
                )
            )
        if facts.xendomains:
            found.append(
                Finding(
                    WARNING,
                    host,
                    None,
                    f"{host}: {facts.xendomains}",
                    'set XENDOMAINS_SAVE="" and XENDOMAINS_RESTORE=false in /etc/default/xendomains',
                )
            )
        if facts.drbdadm:
            what = f"{host}: drbdadm refuses its configuration, for all resources: {facts.drbdadm}"
            found.append(Finding(ERROR, host, None, what, f"correct that file; `drbdadm sh-nop` on {host}"))
        if facts.root_ssh:
            found.append(
                Finding(
                    ERROR,
                    host,
                    None,
                    f"{host}: root's ssh to {other}, which `xl migrate` needs, fails: {facts.root_ssh}",
                    f"`xenhelper setup {other}` on {host} says what to paste there; log in once by that name",
                )
            )
        found += [
            Finding(WARNING, host, None, f"{host}: couldn't be looked at: {line}", "mend that, then again")
            for line in facts.unread
        ]
    return found
