"""What the doctor makes of devices, on machines made of files."""

from pathlib import Path

from weft.cli.doctor.devices import check_devmem, check_gpu, check_kvm, check_rdma


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_machine_without_rdma_uses_tcp_and_nothing_is_wrong(tmp_path: Path) -> None:
    finding = check_rdma(tmp_path)

    assert finding.state == "missing"
    assert not finding.blocks
    assert "TCP" in finding.meaning


def test_an_active_rdma_port_is_well(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n")

    finding = check_rdma(tmp_path)

    assert (finding.state, finding.found) == ("ok", "mlx5_0 (ACTIVE)")


def test_an_rdma_port_that_is_down_says_what_to_look_at(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/infiniband/mlx5_0/ports/1/state", "1: DOWN\n")

    finding = check_rdma(tmp_path)

    assert finding.state == "limited"
    assert "ibv_devinfo" in finding.remedy


def test_a_machine_without_kvm_is_told_what_that_means(tmp_path: Path) -> None:
    assert check_kvm(tmp_path).state == "missing"


def test_a_file_that_is_no_kvm_does_not_pass_for_one(tmp_path: Path) -> None:
    write(tmp_path, "dev/kvm", "")

    assert check_kvm(tmp_path).state == "limited"


def test_a_gpu_is_named_by_its_model(tmp_path: Path) -> None:
    write(tmp_path, "proc/driver/nvidia/gpus/0000:00:05.0/information", "Model: \t\t NVIDIA H200\nIRQ: 12\n")
    assert check_gpu(tmp_path).state == "limited"

    write(tmp_path, "dev/nvidia0", "")
    assert (check_gpu(tmp_path).state, check_gpu(tmp_path).found) == ("ok", "NVIDIA H200")


def test_a_machine_without_a_gpu_unpacks_on_the_cpu(tmp_path: Path) -> None:
    assert "CPU" in check_gpu(tmp_path).meaning


def test_a_kernel_without_devmem_is_named_and_nothing_is_wrong() -> None:
    finding = check_devmem({"tcp_devmem": False, "tcp_devmem_error": "the kernel is older than 6.12"})

    assert (finding.state, finding.found, finding.blocks) == ("missing", "the kernel is older than 6.12", False)
    assert "bounce buffer" in finding.meaning


def test_a_kernel_with_devmem_does_not_promise_a_card() -> None:
    finding = check_devmem({"tcp_devmem": True, "tcp_devmem_error": ""})

    assert finding.state == "ok"
    assert "card" in finding.found
