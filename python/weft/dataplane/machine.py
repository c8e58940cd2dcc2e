"""This machine as the data plane sees it: what its kernel offers, what memory it has left, the core's own bounds."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from weft._native import LIMITS, machine_report

limits: Mapping[str, int] = LIMITS


class MachineMemory(Struct, frozen=True, kw_only=True):
    """A machine's memory, or its container's where that is less."""

    total_bytes: int
    available_bytes: int


def report_machine() -> Mapping[str, str | int | bool]:
    """What this machine's kernel offers the data plane, by name; nothing is changed by asking."""
    return machine_report()


def measure_memory(root: Path = Path("/")) -> MachineMemory:
    """What could be lent without pushing anybody out: the kernel's own estimate, and no more than a cgroup allows."""
    meminfo = _meminfo(root / "proc/meminfo")
    total_bytes, available_bytes = meminfo["MemTotal"], meminfo["MemAvailable"]
    for folder in _cgroup_folders(root):
        limit = _read(folder / "memory.max")
        if limit.isdigit():
            used = _read(folder / "memory.current")
            total_bytes = min(total_bytes, int(limit))
            available_bytes = min(available_bytes, max(0, int(limit) - int(used or 0)))
    return MachineMemory(total_bytes=total_bytes, available_bytes=available_bytes)


def _meminfo(path: Path) -> dict[str, int]:
    """Lines such as `MemAvailable:   24000000 kB`, in bytes."""
    amounts: dict[str, int] = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        amount = rest.split()
        if amount and amount[0].isdigit():
            amounts[name] = int(amount[0]) * 1024
    return amounts


def _cgroup_folders(root: Path) -> list[Path]:
    """The cgroup of this process and every one above it; each may hold a limit. Empty without cgroup version 2."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            mount = root / "sys/fs/cgroup"
            group = mount / line[3:].strip().lstrip("/")
            return [folder for folder in (group, *group.parents) if folder.is_relative_to(mount)]
    return []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
