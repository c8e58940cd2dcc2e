"""The commands as a person meets them: one sentence on standard error, exit status 1 for the world and 2 for usage."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from weft.cli.__main__ import weft
from weft.cli.doctor.finding import missing
from weft.cli.doctor.userfaultfd import check_userfaultfd
from weft.cli.join import instructions

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEFT_COORDINATOR", NOBODY)
    monkeypatch.setenv("WEFT_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("WEFT_SECRET", raising=False)
    # Nobody listens there; a person would wait the whole patience, a test need not.
    monkeypatch.setattr("weft.cli.connection.PATIENCE_S", 0.1)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(weft, arguments)


def test_help_names_every_command() -> None:
    result = invoke("--help")

    assert result.exit_code == 0
    for command in ("coordinator", "node", "status", "region", "join", "doctor", "demo"):
        assert command in result.output


@pytest.mark.parametrize("arguments", [["status"], ["region", "list"], ["region", "delete", "x"], ["join"]])
def test_a_coordinator_that_is_not_there_is_one_sentence_with_the_remedy(arguments: list[str]) -> None:
    result = invoke(*arguments)

    assert result.exit_code == 1
    assert result.stderr == (
        f"weft: no coordinator answers at {NOBODY}; start one with `weft coordinator`, or set WEFT_COORDINATOR\n"
    )


def test_a_size_that_is_none_is_one_sentence() -> None:
    result = invoke("region", "create", "x", "lots")

    assert result.exit_code == 1
    assert result.stderr.startswith("weft: 'lots' is no size; ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["region", "create"], ["nothing"], ["status", "--nothing"], ["demo", "/no/file"]]
)
def test_wrong_usage_is_exit_status_2(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


def test_the_doctor_speaks_json() -> None:
    result = invoke("doctor", "--json")

    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["ready"] else 1)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert {"memory", "processors", "congestion control", "coordinator", "RDMA devices", "KVM", "GPU"} <= set(found)
    assert found["coordinator"]["state"] == "missing"
    for finding in report["findings"]:
        assert finding["state"] == "ok" or (finding["meaning"] and finding["remedy"]), finding


def test_a_machine_without_userfaultfd_is_not_ready_and_told_what_to_do() -> None:
    [finding] = check_userfaultfd({"userfaultfd": False, "userfaultfd_error": "Operation not permitted"})

    assert finding.blocks
    assert "vm.unprivileged_userfaultfd=1" in finding.remedy


def test_user_mode_faults_alone_are_a_limit_and_not_a_lack() -> None:
    features = ("event_remap", "event_remove", "event_unmap", "poison", "write_protect", "write_protect_async", "move")
    report = {"userfaultfd": True, "kernel_faults": False, "pagemap_scan": True, **dict.fromkeys(features, True)}

    findings = check_userfaultfd(report)

    assert [finding.state for finding in findings] == ["limited", *["ok"] * 8]
    assert "EFAULT" in findings[0].meaning


def test_an_older_kernel_is_told_which_feature_it_misses() -> None:
    report = {"userfaultfd": True, "kernel_faults": True, "pagemap_scan": True, "poison": False}

    [poison] = [finding for finding in check_userfaultfd(report) if finding.name == "userfaultfd poison"]

    assert poison == missing(
        "userfaultfd poison",
        "not in this kernel (Linux 6.6 has it)",
        meaning="a lost page could not be told from zeros, so regions do not attach",
        remedy="use Linux 6.8 or newer",
        needed=True,
    )


def test_join_prints_the_command_and_where_the_secret_is() -> None:
    lines = instructions("http://10.0.0.1:8080", "10.0.0.1", "4GiB", secret_file="/x/secret", secret_known=True)

    assert '  WEFT_COORDINATOR=http://10.0.0.1:8080 WEFT_SECRET="<the secret>" weft node --lend 4GiB' in lines
    assert any("/x/secret" in line for line in lines)
    assert lines[0] == "On the other machine:"


def test_join_says_when_no_other_machine_reaches_the_coordinator() -> None:
    lines = instructions("http://127.0.0.1:8080", "127.0.0.1", "4GiB", secret_file="/x/secret", secret_known=True)

    assert "which no other machine reaches" in lines[0]
    assert any("weft coordinator --host" in line for line in lines)
    assert not any("WEFT_COORDINATOR=http://127.0.0.1" in line for line in lines)
