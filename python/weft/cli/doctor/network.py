"""The network as Weft uses it: ports to listen on, how the kernel paces a connection, the coordinator."""

import os
import socket
from pathlib import Path

from weft.cli.doctor.finding import Finding, limited, missing, ok


def check_ports(port_first: int, port_last: int, host: str = "127.0.0.1") -> Finding:
    """Whether ports of the range nodes listen in are free, found by binding each for a moment."""
    name = f"ports {port_first}-{port_last}"
    taken = [port for port in range(port_first, port_last + 1) if not _binds(host, port)]
    count = port_last - port_first + 1
    if len(taken) == count:
        return missing(
            name,
            "every one is taken",
            meaning="a node finds no port to listen on",
            remedy="end what listens there (`ss -ltnp` shows it), or give `weft node` --port-first and --port-last",
            needed=True,
        )
    if taken:
        shown = ", ".join(map(str, taken[:8])) + (", …" if len(taken) > 8 else "")
        return ok(name, f"{count - len(taken)} of {count} free (taken: {shown}); a node takes the first that is free")
    return ok(name, f"all {count} free")


def _binds(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As the server binds: a port in TIME_WAIT counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def check_congestion(root: Path) -> Finding:
    """The congestion control of new connections, and whether Weft may choose cubic where another is the default."""
    settings = root / "proc/sys/net/ipv4"
    current = _read(settings / "tcp_congestion_control")
    available = _read(settings / "tcp_available_congestion_control").split()
    allowed = _read(settings / "tcp_allowed_congestion_control").split()
    name = "congestion control"
    if not current:
        return limited(
            name,
            "not readable",
            meaning="Weft takes what the kernel gives and bounds its send buffers",
            remedy="nothing to do inside a sandbox without /proc/sys; elsewhere look why /proc/sys/net is missing",
        )
    found = f"{current} by default; available: {', '.join(available)}; allowed: {', '.join(allowed)}"
    if current == "cubic":
        return ok(name, found)
    privileged = os.geteuid() == 0
    if "cubic" in allowed or ("cubic" in available and privileged):
        return ok(name, f"{found}; Weft chooses cubic for its own connections")
    if "cubic" in available:
        return limited(
            name,
            found,
            meaning=f"cubic is there but not allowed, and {current} can halve the rate of bulk transfers",
            remedy='as root: sysctl -w net.ipv4.tcp_allowed_congestion_control="' + " ".join([*allowed, "cubic"]) + '"',
        )
    return limited(
        name,
        found,
        meaning=f"cubic is not in this kernel, and {current} can halve the rate of bulk transfers",
        remedy="load it as root: modprobe tcp_cubic",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
