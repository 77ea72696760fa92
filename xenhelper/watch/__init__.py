"""xenhelper-watch.service: what should be noticed without anybody asking.

``bells`` wake the ``daemon``, ``look`` reads the ``world``, ``judge`` and ``disks`` decide
which alerts ought to be raised, ``tell`` raises and clears them; ``rounds`` calls the
reconciler."""
