"""The ssh command of the channel: its own key, its own known hosts, nothing of root's."""

from xenhelper import paths

# seconds: a host that is up answers within them even when it is busy; a dead one costs no more
CONNECT_TIMEOUT = 8


def command(name: str, address: str, port: int = 22) -> list[str]:
    """ssh to the peer's forced command (which ignores what is asked for there)."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_TIMEOUT),
        "ControlMaster": "no",
        "ControlPath": "none",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": name,
        "IdentitiesOnly": "yes",
        "LogLevel": "ERROR",
        "PermitLocalCommand": "no",
        "Port": str(port),
        "ServerAliveCountMax": "3",
        "ServerAliveInterval": "5",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": paths.PEER_KNOWN_HOSTS,
    }
    argv = ["ssh", "-F", "/dev/null", "-T", "-a", "-x", "-i", paths.PEER_KEY, "-l", "root"]
    for key, value in options.items():
        argv += ["-o", f"{key}={value}"]
    return [*argv, "--", address, "xenhelper"]


def command_for(peer: str) -> list[str]:
    """The command for a configured peer. Raises ConfigError."""
    from xenhelper import config

    found = config.load().peer(peer)
    return command(found.name, found.management, found.ssh_port)
