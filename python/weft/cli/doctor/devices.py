"""Devices Weft can use and never needs: RDMA adapters, hardware virtualization, graphics processors."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from weft.cli.doctor.finding import Finding, limited, missing, ok

# KVM_GET_API_VERSION, linux/kvm.h: _IO(0xAE, 0x00). Every kernel since 2.6.22 answers 12.
_KVM_GET_API_VERSION = 0xAE00
_KVM_API_VERSION = 12


def check_rdma(root: Path) -> Finding:
    """RDMA adapters the kernel knows, with the state of their ports."""
    devices = root / "sys/class/infiniband"
    names = sorted(entry.name for entry in devices.iterdir()) if devices.is_dir() else []
    if not names:
        return missing(
            "RDMA devices",
            "none in /sys/class/infiniband",
            meaning="transfers go over TCP, which every network can do",
            remedy="nothing to do; with an InfiniBand or RoCE adapter, load its driver and install rdma-core",
        )
    described = ", ".join(f"{name} ({_port_states(devices / name)})" for name in names)
    if not any("ACTIVE" in _port_states(devices / name) for name in names):
        return limited(
            "RDMA devices",
            described,
            meaning="an adapter is there but no port is active, so transfers go over TCP",
            remedy="check the cable and the link: `ibv_devinfo` shows why a port is down",
        )
    return ok("RDMA devices", described)


def _port_states(device: Path) -> str:
    # A port's state file reads like "4: ACTIVE".
    states = [_read(port / "state").partition(":")[2].strip() for port in sorted((device / "ports").glob("*"))]
    return ", ".join(state for state in states if state) or "no ports"


def check_kvm(root: Path) -> Finding:
    """Whether /dev/kvm is there and answers."""
    device = root / "dev/kvm"
    if not device.exists():
        return missing(
            "KVM",
            "no /dev/kvm",
            meaning="virtual machines on this node run by emulation; everything else works",
            remedy="turn on virtualization in the firmware, or nested virtualization where this is itself a guest",
        )
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return limited(
            "KVM",
            f"/dev/kvm does not open: {error.strerror}",
            meaning="virtual machines on this node run by emulation; everything else works",
            remedy="add this user to the group that owns /dev/kvm (usually kvm) and log in again",
        )
    try:
        version = fcntl.ioctl(descriptor, _KVM_GET_API_VERSION)
    except OSError as error:
        return limited(
            "KVM",
            f"/dev/kvm does not answer: {error.strerror}",
            meaning="virtual machines on this node run by emulation; everything else works",
            remedy="load the module for this processor: kvm_intel or kvm_amd",
        )
    finally:
        os.close(descriptor)
    if version != _KVM_API_VERSION:
        return limited(
            "KVM",
            f"interface version {version}, {_KVM_API_VERSION} is needed",
            meaning="virtual machines on this node run by emulation; everything else works",
            remedy="use a kernel of this century: the version has not changed since Linux 2.6.22",
        )
    return ok("KVM", "/dev/kvm opens and answers")


def check_gpu(root: Path) -> Finding:
    """NVIDIA graphics processors with a driver and a device file."""
    cards = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    if not cards:
        return missing(
            "GPU",
            "none in /proc/driver/nvidia",
            meaning="fragments that arrive for a GPU are unpacked by the CPU",
            remedy="nothing to do; with an NVIDIA card, install its driver",
        )
    models = ", ".join(_model(card) for card in cards)
    if not (root / "dev/nvidia0").exists():
        return limited(
            "GPU",
            f"{models}, but no /dev/nvidia0",
            meaning="the card is there and programs cannot open it",
            remedy="run `nvidia-modprobe`, or give the container its devices",
        )
    return ok("GPU", models)


def _model(card: Path) -> str:
    for line in _read(card).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Model":
            return value.strip()
    return card.parent.name


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def check_devmem(report: Mapping[str, str | int | bool]) -> Finding:
    """Whether TCP can leave payload in a device's memory; the kernel's half, which can be asked without a card."""
    if report["tcp_devmem"]:
        return ok("devmem TCP", "the kernel has it; whether a network card does cannot be asked without binding one")
    return missing(
        "devmem TCP",
        str(report["tcp_devmem_error"]),
        meaning="payload for a device's memory goes through a bounce buffer of this machine",
        remedy="nothing to do; with a card that can, use Linux 6.12 or newer with CONFIG_NET_DEVMEM",
    )
