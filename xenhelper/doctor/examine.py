"""All checks over this host and its peers."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from xenhelper import config
from xenhelper.doctor import (
    agreement,
    configs,
    guests,
    link,
    mail,
    orphans,
    services,
    space,
    thin,
    versions,
)
from xenhelper.doctor.facts import Facts, from_json, gather
from xenhelper.doctor.finding import ERROR, SEVERITIES, WARNING, Finding
from xenhelper.doctor.pair import Pair
from xenhelper.errors import XenhelperError

CHECKS: tuple[Callable[[Pair], list[Finding]], ...] = (
    services.check,
    versions.check,
    link.check,
    agreement.check,
    orphans.check,
    guests.check,
    configs.check,
    space.check,
    thin.check,
    mail.check,
)
# seconds: a busy host in a bad state; each look there is bounded by itself
ASK = 120.0


def examine() -> list[Finding]:
    """Look at this host and all its peers; the gravest first. Raises ConfigError."""
    settings = config.load()
    found: list[Finding] = []
    for peer in sorted(settings.peers):
        found += judge(*_pair(peer))
    if not settings.peers:
        found.append(
            Finding(ERROR, settings.host, None, f"{settings.host} has no peer", "`xenhelper setup PEER`")
        )
    # what is this host's own is found with each peer
    return sorted(dict.fromkeys(found), key=lambda one: (SEVERITIES.index(one.severity), one.what))


def judge(pair: Pair, why: str = "") -> list[Finding]:
    """All checks over one pair; ``why`` its peer gave no facts. Pure."""
    found: list[Finding] = []
    if pair.there is None:
        found.append(
            Finding(
                ERROR,
                pair.peer,
                None,
                f"{pair.peer} doesn't answer over the management path, so only {pair.here.host} was looked "
                f"at: {why}",
                f"check {pair.peer}, then `systemctl status xenhelper-peer@{pair.peer}`",
            )
        )
    for check in CHECKS:
        try:
            found += check(pair)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # facts that came from a host of another version, say: the other checks still count
            name = check.__module__.rpartition(".")[2]
            what = f"the check of {name} failed: {type(error).__name__}: {error}"
            found.append(Finding(WARNING, None, None, what, "bring both hosts to one version"))
    for facts in pair.both:
        found += _tuning(facts)
    return found


def _tuning(facts: Facts) -> list[Finding]:
    found = []
    for item in facts.tuning:
        try:
            one = Finding(**item)
        except TypeError:
            continue
        if one.severity in SEVERITIES:
            found.append(replace(one, host=facts.host))
    return found


def _pair(peer: str) -> tuple[Pair, str]:
    """Both hosts look at the same time."""
    from xenhelper.peer import client

    answer: dict[str, object] = {}
    why = ""

    def ask() -> None:
        nonlocal why
        try:
            answer.update(client.ask(peer, "doctor-facts", {}, timeout=ASK))
        except (XenhelperError, OSError) as error:
            why = error.what if isinstance(error, XenhelperError) else str(error)

    offset = _offset(peer)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    here = from_json(gather(peer))
    thread.join(ASK + 5)
    there = None
    if answer:
        try:
            there = from_json(answer.get("facts"))
        except XenhelperError as error:
            why = error.what
    return Pair(here, there, peer, offset), why or "no answer in time"


def _offset(peer: str) -> float | None:
    """Seconds that the peer's clock is ahead, with the doubt of the question's own way taken
    off; None when it can't be told."""
    from xenhelper.peer import client

    try:
        before = time.time()
        said = client.ask(peer, "hello", {}, timeout=10.0).get("time")
        after = time.time()
    except (XenhelperError, OSError):
        return None
    if not isinstance(said, int | float):
        return None
    off, doubt = said - (before + after) / 2, (after - before) / 2
    return 0.0 if abs(off) <= doubt else off - doubt if off > 0 else off + doubt
