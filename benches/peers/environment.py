"""The peers' own environment under `.build/peers`: a virtual environment, servers of Debian, nothing of it system-wide.

A peer that cannot be had is no reason to stop: it says why in its row.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = Path(os.environ.get("WEFT_PEERS", ".build/peers"))
INSTALL_SECONDS_MAX = 300
COMPILE_SECONDS_MAX = 60
LIBRARIES = ("libjemalloc2", "liblzf1", "libatomic1", "libevent-2.1-7", "libsasl2-2", "libssl3")
"""What the servers are linked against, in Debian 12; fetched with them where the machine has no server of its own."""


def step(command: list[str], what: str, seconds_max: int = INSTALL_SECONDS_MAX, **arguments: object) -> str:
    """Runs one step. Returns why it failed, in one line; nothing when it did not."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
            **arguments,  # type: ignore[call-overload]
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{what}: {error}"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"]
    return f"{what}: {lines[-1][:160]}"


def python() -> tuple[Path, dict[str, str]]:
    """The interpreter of the peers' environment, and what could not be installed into it, by package."""
    program = ROOT / "venv/bin/python"
    if not program.exists():
        ROOT.mkdir(parents=True, exist_ok=True)
        if why := step([sys.executable, "-m", "venv", str(ROOT / "venv")], "python -m venv"):
            return program, dict.fromkeys(("nixl-cu12", "mooncake-transfer-engine-non-cuda"), why)
    missing = {}
    for line in (HERE / "requirements.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, _, version = line.partition("==")
        if list((ROOT / "venv/lib").glob(f"python*/site-packages/{name.replace('-', '_')}-{version}.dist-info")):
            continue
        print(f"weft: installing {line} for the comparison", flush=True)
        pip = [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", line]
        if why := step(pip, "pip install"):
            missing[name] = why
    return program, missing


def server(name: str, packages: tuple[str, ...]) -> tuple[str, str]:
    """The path of a server of Debian, and why there is none. The machine's own is taken; else one is unpacked here."""
    if found := shutil.which(name):
        return found, ""
    folder = (ROOT / "debian").absolute()
    path = folder / "usr/bin" / name
    if path.exists():
        return str(path), ""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"weft: fetching {name} for the comparison", flush=True)
    for package in (*packages, *LIBRARIES):
        why = step(["apt-get", "download", package], f"apt-get download {package}", cwd=folder)
        if why and package in packages:
            return "", why
    for package in sorted(folder.glob("*.deb")):
        if why := step(["dpkg", "-x", str(package), str(folder)], f"dpkg -x {package.name}"):
            return "", why
    return (str(path), "") if path.exists() else ("", f"{name} is not in {', '.join(packages)}")


def library_path() -> str:
    """Where the unpacked servers' libraries are, after the machine's own."""
    return ":".join(str(path) for path in sorted((ROOT / "debian").absolute().glob("usr/lib/*-linux-gnu")))


def preload() -> tuple[Path, str]:
    """The library that gives a peer's sockets their congestion control, and why there is none."""
    built = (ROOT / "congestion.so").absolute()
    source = HERE / "congestion.c"
    if built.exists() and built.stat().st_mtime >= source.stat().st_mtime:
        return built, ""
    ROOT.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", str(source), "-o", str(built), "-ldl"]
    return built, step(command, "cc", COMPILE_SECONDS_MAX)
