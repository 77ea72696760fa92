"""What an administrator must hear of: raised and cleared by whoever sees it, told by
xenhelper-alert.service.

An alert is one durable record, ``/var/lib/xenhelper/alerts/{queue,kept}/KIND.KEY``:
``queue`` while some channel hasn't been told of its last change, ``kept`` after. Raising
what is raised already changes nothing, so any number of those who see the same thing
(the watcher, a handler of DRBD, the reconciler, after a crash once more) make one alert.
No daemon is needed to raise one; systemd starts the sender when ``queue`` isn't empty.

Kinds, and what their keys are: ``connection``, ``resync``, ``disk``, ``split-brain``,
``out-of-sync``, ``missing``, ``without-disk``, ``stale``, ``verify``, ``handler`` (a
resource), ``window``, ``left``, ``takeover``, ``unreplicated`` (a VM), ``beneath`` (a
resource and a domain), ``pool`` (a thin pool), ``channel`` (a channel of alerts that
fails), ``test``. What
a verify finds is raised, with the places that it has noted (differing.py), by the watcher
and by DRBD's handler.
"""

from xenhelper.alerts.store import CRITICAL as CRITICAL
from xenhelper.alerts.store import ERROR as ERROR
from xenhelper.alerts.store import INFO as INFO
from xenhelper.alerts.store import WARNING as WARNING
from xenhelper.alerts.store import active as active
from xenhelper.alerts.store import clear as clear
from xenhelper.alerts.store import is_active as is_active
from xenhelper.alerts.store import raise_ as raise_
from xenhelper.alerts.store import try_clear as try_clear
from xenhelper.alerts.store import try_raise as try_raise
