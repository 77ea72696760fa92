"""Values for this hardware: ``topology`` and ``values`` compute them (pure), ``blockdev``
and ``look`` read what is there, ``items`` decides what differs, ``apply`` sets it."""
