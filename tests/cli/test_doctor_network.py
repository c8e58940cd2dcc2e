"""What the doctor makes of ports and of congestion control."""

import socket
from pathlib import Path

import pytest

from weft.cli.doctor.network import check_congestion, check_ports


def sysctls(root: Path, *, current: str, available: str, allowed: str) -> Path:
    folder = root / "proc/sys/net/ipv4"
    folder.mkdir(parents=True)
    (folder / "tcp_congestion_control").write_text(current + "\n")
    (folder / "tcp_available_congestion_control").write_text(available + "\n")
    (folder / "tcp_allowed_congestion_control").write_text(allowed + "\n")
    return root


def test_a_taken_port_is_counted_and_one_free_port_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert check_ports(port, port).blocks
        assert "ss -ltnp" in check_ports(port, port).remedy


def test_cubic_by_default_is_well(tmp_path: Path) -> None:
    root = sysctls(tmp_path, current="cubic", available="reno cubic", allowed="reno cubic")

    assert check_congestion(root).state == "ok"


def test_cubic_that_may_be_chosen_is_well(tmp_path: Path) -> None:
    root = sysctls(tmp_path, current="bbr", available="reno cubic bbr", allowed="reno cubic bbr")

    assert "chooses cubic" in check_congestion(root).found


def test_cubic_that_is_not_allowed_is_a_command_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    root = sysctls(tmp_path, current="bbr", available="reno cubic bbr", allowed="reno bbr")

    finding = check_congestion(root)

    assert finding.state == "limited"
    assert finding.remedy == 'as root: sysctl -w net.ipv4.tcp_allowed_congestion_control="reno bbr cubic"'


def test_a_kernel_without_cubic_is_told_to_load_it(tmp_path: Path) -> None:
    root = sysctls(tmp_path, current="bbr", available="bbr reno", allowed="bbr reno")

    assert "modprobe tcp_cubic" in check_congestion(root).remedy


def test_a_sandbox_without_settings_is_not_an_error(tmp_path: Path) -> None:
    assert check_congestion(tmp_path).state == "limited"
