"""`weft tls`: two commands, and what they made is what a process takes."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from weft.cli.__main__ import weft
from weft.cli.join import instructions
from weft.client.security import speak_tls
from weft.dataplane import leave_tls, tls_names
from weft.model.errors import Misconfigured


@pytest.fixture(autouse=True)
def plain_again() -> Iterator[None]:
    yield
    leave_tls()


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(weft, ["tls", *map(str, arguments)])


def variables(directory: Path, name: str) -> dict[str, str]:
    return {
        "WEFT_TLS_CA": str(directory / "ca.pem"),
        "WEFT_TLS_CERT": str(directory / f"{name}.pem"),
        "WEFT_TLS_KEY": str(directory / f"{name}.key"),
    }


def test_two_commands_make_what_a_node_needs(tmp_path: Path) -> None:
    made = invoke("init", tmp_path / "certificates")
    issued = invoke("issue", tmp_path / "certificates", "gpu-1", "gpu-2")

    assert (made.exit_code, issued.exit_code) == (0, 0)
    assert "weft tls issue" in made.output
    for variable in ("WEFT_TLS_CA=", "WEFT_TLS_CERT=", "WEFT_TLS_KEY="):
        assert variable in issued.output
    assert speak_tls(variables(tmp_path / "certificates", "gpu-1")) == ("gpu-1", "gpu-2")
    assert tls_names() == ("gpu-1", "gpu-2")


def test_keys_are_for_this_user_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        invoke("init", tmp_path)
        invoke("issue", tmp_path, "a")
    finally:
        os.umask(umask)

    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ca.key", "a.key")} == {0o600}


def test_an_authority_is_not_overwritten(tmp_path: Path) -> None:
    invoke("init", tmp_path)
    before = (tmp_path / "ca.key").read_text()

    again = invoke("init", tmp_path)

    assert again.exit_code == 1
    assert "ca.key: it is there already; move it away first" in again.stderr
    assert (tmp_path / "ca.key").read_text() == before


def test_a_machine_may_not_be_called_as_the_authorities_files_are(tmp_path: Path) -> None:
    invoke("init", tmp_path)
    before = (tmp_path / "ca.pem").read_text()

    assert invoke("issue", tmp_path, "ca").exit_code == 1
    assert (tmp_path / "ca.pem").read_text() == before


def test_without_an_authority_the_sentence_says_how_to_make_one(tmp_path: Path) -> None:
    refused = invoke("issue", tmp_path, "a")

    assert refused.exit_code == 1
    assert f"make the authority with `weft tls init {tmp_path}`" in refused.stderr


def test_what_is_no_nodes_name_is_refused(tmp_path: Path) -> None:
    invoke("init", tmp_path)

    assert invoke("issue", tmp_path, "a:b").exit_code == 1
    assert not (tmp_path / "a:b.key").exists()


def test_another_machines_key_is_refused_by_its_variable(tmp_path: Path) -> None:
    invoke("init", tmp_path)
    invoke("issue", tmp_path, "a")
    invoke("issue", tmp_path, "b")

    with pytest.raises(Misconfigured, match=r"^WEFT_TLS_KEY is not the key of the certificate") as refusal:
        speak_tls({**variables(tmp_path, "a"), "WEFT_TLS_KEY": str(tmp_path / "b.key")})

    assert refusal.value.variable == "WEFT_TLS_KEY"
    assert tls_names() is None


def test_another_clusters_certificate_is_refused_by_its_variable(tmp_path: Path) -> None:
    for cluster in ("ours", "theirs"):
        invoke("init", tmp_path / cluster)
        invoke("issue", tmp_path / cluster, "a")

    with pytest.raises(Misconfigured, match=r"^WEFT_TLS_CERT was not signed by the authority in WEFT_TLS_CA"):
        speak_tls({**variables(tmp_path / "theirs", "a"), "WEFT_TLS_CA": str(tmp_path / "ours" / "ca.pem")})


def test_join_says_what_a_machine_needs_where_this_one_speaks_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    def lines() -> str:
        return "\n".join(instructions("http://10.0.0.1:8080", "10.0.0.1", "4GiB", secret_file="s", secret_known=True))

    assert "TLS" not in lines()
    monkeypatch.setenv("WEFT_TLS_CERT", "/certs/a.pem")
    assert "weft tls issue" in lines()
    assert "WEFT_TLS_KEY" in lines()
