"""What a peer may ask: verb -> (module, function, arguments; see messages.check).

A function takes (peer, args): ``peer`` is the name that the ssh key stands for,
``args`` has passed the schema; names in it are the function's to check. It returns a
JSON object and raises XenhelperError with the line that the asker will see. It must
end by itself in bounded time: nobody interrupts it.
"""

from collections.abc import Callable
from typing import Any

from xenhelper.errors import XenhelperError

Handler = Callable[[str, dict[str, Any]], dict[str, Any]]

VERBS: dict[str, tuple[str, str, dict[str, object]]] = {
    # who is there
    "here": ("xenhelper.peer.about", "serve_here", {}),
    "hello": ("xenhelper.peer.about", "serve_hello", {}),
    "facts": ("xenhelper.peer.about", "serve_facts", {}),
    "status": ("xenhelper.peer.about", "serve_status", {}),
    "doctor-facts": ("xenhelper.doctor.facts", "serve", {}),
    "log": ("xenhelper.journal", "serve", {"vm": str, "since": float, "limit": int}),
    # one writer: migration window and fencing
    "grant": ("xenhelper.handover", "serve_grant", {"resource": str, "domain": str}),
    "granted": ("xenhelper.handover", "serve_granted", {"resources": [str]}),
    "revoke": ("xenhelper.handover", "serve_revoke", {"resource": str}),
    "outdate": ("xenhelper.fence", "serve_outdate", {"resource": str, "current": str, "bitmap": str}),
    "window-begin": (
        "xenhelper.window",
        "serve_begin",
        {"vm": str, "resources": [str], "source": str, "uuid": str, "by?": str},
    ),
    "window-end": ("xenhelper.window", "serve_end", {"vm": str}),
    "destination-check": (
        "xenhelper.destination",
        "serve_check",
        {"vm": str, "memory_kib": int, "bridges": [str], "files": [str], "kind": str, "resources": [str]},
    ),
    # the same for a migration by libvirt (xenhelper.virt)
    "virt-open": ("xenhelper.virt.source", "serve_open", {"vm": str, "uuid": str, "resources": [str]}),
    "virt-go": ("xenhelper.virt.source", "serve_go", {"vm": str, "uuid": str, "resources": [str]}),
    "virt-over": ("xenhelper.virt.source", "serve_over", {"vm": str, "ran": bool}),
    "virt-look": ("xenhelper.virt.adopt", "serve_look", {"vm": str, "uuid": str}),
    "virt-define": ("xenhelper.virt.adopt", "serve_define", {"vm": str, "xml": str}),
    "busy": ("xenhelper.reconcile", "serve_busy", {"vm": str}),
    "connection": ("xenhelper.halfopen", "serve_connection", {"address": str, "port": int, "to": int}),
    # hosts that went and came back
    "cede": ("xenhelper.ceded", "serve_cede", {"vm": str, "resources": [str]}),
    "uncede": ("xenhelper.ceded", "serve_uncede", {"resource": str}),
    "last-ran": ("xenhelper.autostart", "serve_last_ran", {"vm": str}),
    "autostart": ("xenhelper.autostart", "serve_autostart", {"vm": str}),
    "split-story": ("xenhelper.splitbrain", "serve_story", {"resource": str}),
    "recover-discard": (
        "xenhelper.recover",
        "serve_discard",
        {"vm": str, "resources": [str], "dry": bool, "snapshot": bool},
    ),
    "recover-connect": ("xenhelper.recover", "serve_connect", {"vm": str, "resources": [str]}),
    "recover-end": ("xenhelper.recover", "serve_end", {"vm": str}),
    # both copies compared (xenhelper.verify)
    "verify-stop": ("xenhelper.verify.stop", "serve_stop", {"resource": str}),
    "verify-noted": ("xenhelper.verify.results", "serve_noted", {"result": dict}),
    "verify-repair": ("xenhelper.verify.repair", "serve", {"resource": str, "step": str, "good": str}),
    # create and forget (xenhelper.replicate, xenhelper.forget)
    "replicate-look": (
        "xenhelper.replicate_peer",
        "serve_look",
        {
            "vm": str,
            "groups": [str],
            "volumes": [str],
            "files": [str],
            "bridges": [str],
            "config": str,
            "tidy": bool,
        },
    ),
    "replicate-lease": (
        "xenhelper.replicate_peer",
        "serve_lease",
        {"vm": str, "minors": [int], "ports": [int], "wait": float},
    ),
    "replicate-unlease": ("xenhelper.replicate_peer", "serve_unlease", {"token": str}),
    "replicate-survey": (
        "xenhelper.replicate_peer",
        "serve_survey",
        {"vm": str, "minors": [int], "ports": [int]},
    ),
    "replicate-prepare": ("xenhelper.replicate_peer", "serve_prepare", {"plan": dict, "token": str}),
    "replicate-undo": ("xenhelper.replicate_peer", "serve_undo", {"vm": str, "id": str}),
    "replicate-state": ("xenhelper.replicate_peer", "serve_state", {"vm": str, "id": str}),
    "replicate-commit": (
        "xenhelper.replicate_peer",
        "serve_commit",
        {
            "vm": str,
            "id": str,
            "config?": str,
            "text?": str,
            "expected?": str,
            "agreed?": str,
            "mode?": int,
            "last_ran?": str,
            "vdevs?": dict,
            "replaced?": dict,
            "autostart?": str,
        },
    ),
    # the second copy moves to another host (xenhelper.replace, shelf, moved)
    "replace-retire": ("xenhelper.shelf", "serve_retire", {"vm": str, "id": str, "to": str, "dry": bool}),
    "replace-return": ("xenhelper.shelf", "serve_return", {"vm": str, "id": str, "fresh": bool}),
    "replace-good": ("xenhelper.shelf", "serve_good", {"vm": str}),
    "replaced": ("xenhelper.moved", "serve", {}),
    "replaced-gone": ("xenhelper.moved", "serve_gone", {"vm": str}),
    "replicate-describe": ("xenhelper.described", "serve", {"vm": str}),
    "replicate-forget": ("xenhelper.forget", "serve", {"vm": str, "delete": bool, "dry": bool}),
    # what was made by hand is taken over (xenhelper.convert); undo and commit as above
    "convert-look": ("xenhelper.byhand", "serve_look", {"vm": str, "resources": [str]}),
    "convert-prepare": ("xenhelper.handmade", "serve_prepare", {"plan": dict}),
    # resync settings of existing resources
    "tune-link": ("xenhelper.tuning.resync", "serve_link", {"vm": str}),
    "tune-resync": ("xenhelper.tuning.resync", "serve_resync", {"vm": str, "knobs": dict}),
    "grow-look": ("xenhelper.grow", "serve_look", {"vm": str, "resource": str}),
    "grow-volumes": ("xenhelper.grow", "serve_volumes", {"vm": str, "resource": str, "id": str, "size": int}),
    "grow-finish": ("xenhelper.grow", "serve_finish", {"vm": str, "resource": str, "id": str}),
    "grow-state": ("xenhelper.grow", "serve_state", {"vm": str, "id": str}),
    "room": ("xenhelper.evacuate", "serve_room", {}),
    "runs": ("xenhelper.destination", "serve_runs", {"vm": str}),
}

# loaded as soon as a connection stands: their first answer must not wait for an import
URGENT = ("here", "grant", "granted", "outdate", "window-begin", "window-end", "virt-go")


def handler(verb: str) -> tuple[Handler, dict[str, object]]:
    """The function and its schema. Raises XenhelperError for an unknown verb."""
    import importlib

    entry = VERBS.get(verb)
    if entry is None:
        raise XenhelperError(f"no request {verb[:40]!r} is known here", "bring both hosts to one version")
    module, function, schema = entry
    found: Handler = getattr(importlib.import_module(module), function)
    return found, schema
