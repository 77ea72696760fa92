"""Steps on xenstore, played through the product's client; results as JSON.

Imported by the simulated side; on a real host this file itself is the program.
"""

import json
import sys


def play(steps, connect):
    """``steps``: (which connection, method, arguments…), in order. What each returned, or
    ``{"error": CODE}``."""
    clients, results = {}, []
    for who, method, *args in steps:
        if who not in clients:
            clients[who] = connect()
        try:
            results.append(getattr(clients[who], method)(*args))
        except Exception as error:  # the test says which
            results.append({"error": getattr(error, "code", "") or repr(error)})
    for client in clients.values():
        client.close()
    return results


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from xenhelper.xen.xenstore import Xenstore

    print(json.dumps(play(json.load(sys.stdin), Xenstore)))
