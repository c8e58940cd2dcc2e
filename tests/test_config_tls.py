"""TLS's three variables: all of them or none, and each named when it is wrong."""

from pathlib import Path

import pytest

from weft.config import rdma_choice, read_tls
from weft.model.errors import Misconfigured


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    files = {"WEFT_TLS_CA": "ca.pem", "WEFT_TLS_CERT": "a.pem", "WEFT_TLS_KEY": "a.key"}
    for name in files.values():
        (tmp_path / name).write_text(f"what is in {name}")
        (tmp_path / name).chmod(0o600)
    return {variable: str(tmp_path / name) for variable, name in files.items()}


def test_none_of_them_means_no_tls() -> None:
    assert read_tls({}) is None
    assert read_tls({"WEFT_TLS_CA": " "}) is None


def test_all_of_them_are_read(env: dict[str, str]) -> None:
    settings = read_tls(env)

    assert settings is not None
    assert (settings.authority, settings.key) == (b"what is in ca.pem", b"what is in a.key")
    assert "what is in" not in repr(settings)


@pytest.mark.parametrize("missing", ["WEFT_TLS_CA", "WEFT_TLS_CERT", "WEFT_TLS_KEY"])
def test_one_that_is_missing_is_named(env: dict[str, str], missing: str) -> None:
    del env[missing]

    with pytest.raises(Misconfigured, match=f"^{missing} is not set") as refusal:
        read_tls(env)

    assert refusal.value.variable == missing


@pytest.mark.parametrize("unreadable", ["WEFT_TLS_CA", "WEFT_TLS_CERT", "WEFT_TLS_KEY"])
def test_a_file_that_is_not_there_is_named_with_its_variable(env: dict[str, str], unreadable: str) -> None:
    env[unreadable] += ".not"

    with pytest.raises(Misconfigured, match=f"^{unreadable}: cannot read .*: No such file"):
        read_tls(env)


def test_a_key_that_others_can_read_is_refused_with_what_to_run(env: dict[str, str]) -> None:
    Path(env["WEFT_TLS_KEY"]).chmod(0o644)

    with pytest.raises(Misconfigured, match=r"^WEFT_TLS_KEY: others can read .*; run: chmod 600 "):
        read_tls(env)


def test_what_is_no_file_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    env["WEFT_TLS_CA"] = str(tmp_path)

    with pytest.raises(Misconfigured, match=r"^WEFT_TLS_CA: .* is no file in PEM"):
        read_tls(env)


@pytest.mark.parametrize("choice", ["", "auto", "off"])
def test_under_tls_nobody_looks_for_rdma_which_does_not_encrypt(choice: str) -> None:
    assert rdma_choice({"WEFT_RDMA": choice, "WEFT_TLS_CERT": "a.pem"}) == "off"


def test_a_device_that_is_named_and_tls_are_a_contradiction() -> None:
    with pytest.raises(Misconfigured, match="WEFT_RDMA=mlx5_0 asks for RDMA"):
        rdma_choice({"WEFT_RDMA": "mlx5_0", "WEFT_TLS_CERT": "a.pem"})
