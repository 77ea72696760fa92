"""The peer channel: requests as data over one kept ssh connection per peer.

``client.ask`` is what everybody calls; ``link`` owns the connection here, ``server``
answers at the other end, ``verbs`` says what may be asked.
"""
