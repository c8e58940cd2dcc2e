"""What a node is started with: refused with a sentence and the numbers before anything begins."""

from pathlib import Path

import pytest

from weft.agent.settings import NodeSettings, read_settings
from weft.dataplane import MachineMemory
from weft.model.errors import Misconfigured, WeftError

GIB = 1 << 30


def settings(tmp_path: Path, env: dict[str, str] | None = None, **flags: object) -> NodeSettings:
    return read_settings(
        {"WEFT_DATA_DIR": str(tmp_path), **(env or {})},
        hostname="box",
        cpu_count=8,
        memory=MachineMemory(total_bytes=16 * GIB, available_bytes=8 * GIB),
        route_to=lambda host: "10.0.0.7",
        **flags,  # type: ignore[arg-type]
    )


def test_a_node_lends_nothing_and_stays_on_loopback_unless_told(tmp_path: Path) -> None:
    made = settings(tmp_path)

    assert (made.name, made.lend_bytes, made.listen_host, made.host) == ("box", 0, "127.0.0.1", "127.0.0.1")
    assert (made.url, made.cluster_name) == ("http://127.0.0.1:8080", "weft")


def test_lending_more_than_is_available_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"12\.0 GiB is more .* 8\.0 GiB of 16\.0 GiB"):
        settings(tmp_path, lend="12GiB")


def test_an_address_others_reach_is_refused_without_a_secret(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="WEFT_SECRET"):
        settings(tmp_path, host="10.0.0.7")

    assert settings(tmp_path, {"WEFT_SECRET": "s"}, host="10.0.0.7").listen_host == "10.0.0.7"


def test_a_coordinator_elsewhere_decides_where_a_node_listens(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"10\.0\.0\.7"):
        settings(tmp_path, coordinator="http://10.0.0.1:8080")

    made = settings(tmp_path, {"WEFT_SECRET": "s"}, coordinator="http://10.0.0.1:8080")
    assert (made.listen_host, made.url) == ("10.0.0.7", "http://10.0.0.1:8080")


def test_every_interface_is_listened_at_and_one_address_is_told(tmp_path: Path) -> None:
    made = settings(tmp_path, {"WEFT_SECRET": "s"}, host="0.0.0.0")

    assert (made.listen_host, made.host) == ("0.0.0.0", "10.0.0.7")


@pytest.mark.parametrize("name", ["a b", "a/b", "", "x" * 257])
def test_a_name_that_is_no_node_id_is_refused(tmp_path: Path, name: str) -> None:
    if name:
        with pytest.raises(Misconfigured, match="--name"):
            settings(tmp_path, name=name)
    else:
        assert settings(tmp_path, name=name).name == "box"


@pytest.mark.parametrize(("first", "last"), [(0, 10), (20, 10), (1, 65536)])
def test_a_port_range_that_is_none_is_refused(tmp_path: Path, first: int, last: int) -> None:
    with pytest.raises(Misconfigured, match="no range of ports"):
        settings(tmp_path, port_first=first, port_last=last)


def test_a_size_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match="is no size"):
        settings(tmp_path, lend="lots")
