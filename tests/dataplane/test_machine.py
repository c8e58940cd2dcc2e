"""What a machine has left, and what its container allows."""

from pathlib import Path

from weft.dataplane import measure_memory, report_machine

KIB = 1024


def machine(root: Path, *, cgroup: str | None = None) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:  800 kB\nHugePages_Total: 0\n"
    )
    if cgroup is not None:
        (root / "proc/self/cgroup").write_text(f"0::{cgroup}\n")
    return root


def limit(root: Path, group: str, most: str, used: int) -> None:
    folder = root / "sys/fs/cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_a_machine_without_limits_has_what_the_kernel_says(tmp_path: Path) -> None:
    memory = measure_memory(machine(tmp_path))

    assert (memory.total_bytes, memory.available_bytes) == (1000 * KIB, 800 * KIB)


def test_the_tightest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="/app/worker")
    limit(root, "app", str(500 * KIB), 100 * KIB)
    limit(root, "app/worker", "max", 50 * KIB)

    memory = measure_memory(root)

    assert (memory.total_bytes, memory.available_bytes) == (500 * KIB, 400 * KIB)


def test_this_machine_answers() -> None:
    assert measure_memory().available_bytes > 0
    assert int(report_machine()["cpus_allowed"]) >= 1
