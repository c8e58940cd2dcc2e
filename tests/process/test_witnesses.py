"""Witnesses and the double of a node as processes: killed and started again, with nothing lost that was answered
for."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.ledger.stages import CLUSTER, NAMESPACE, PUBLISHER, SystemClock
from weft.cli.demo.cluster import OWN_SETTINGS
from weft.cli.demo.crew import Child, Crew
from weft.ledger.archive import Archive
from weft.ledger.envelope import Publisher
from weft.ledger.layer import Cursor, Layer
from weft.ledger.layers import CelestiaLayer, EmergencyLayer, HttpxHttp, QuorumLayer, ValidatorAddress
from weft.model.errors import LayerFailed, LayerUnknown
from weft.receipts import parse_public_key

DEADLINE_S = 20.0
TOKEN = "of these tests"


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew({"WEFT_TOKENS": TOKEN.replace(" ", "-")}, without=OWN_SETTINGS) as made:
        yield made


def start_witness(crew: Crew, kind: str, directory: Path, port: int = 0) -> tuple[Child, str]:
    """The process, and what it says where it listens."""
    child = crew.start(
        directory.name,
        "-m",
        "weft.witness",
        kind,
        "--data",
        str(directory),
        "--port",
        str(port),
        "--name",
        directory.name,
    )
    return child, child.line_with("listening on", DEADLINE_S).split(" listening on ")[1].strip()


def port_of(url: str) -> int:
    return int(url.partition("#")[0].rpartition(":")[2])


def tell(story: Callable[[HttpxHttp], Awaitable[None]]) -> None:
    async def whole() -> None:
        http = HttpxHttp()
        try:
            async with asyncio.timeout(DEADLINE_S):
                await story(http)
        finally:
            await http.close()

    asyncio.run(whole())


async def blobs_of(layer: Layer) -> list[bytes]:
    found: list[bytes] = []
    after = Cursor("")
    while True:
        scan = await layer.scan(after, 100)
        found += [kept.blob for kept in scan.kept]
        after = scan.after
        if scan.is_end:
            return found


def emergency_layer(http: HttpxHttp, url: str) -> EmergencyLayer:
    return EmergencyLayer(http, SystemClock(), url, TOKEN.replace(" ", "-"))


def test_what_the_emergency_server_answered_for_outlives_kill_9(crew: Crew, tmp_path: Path) -> None:
    directory = tmp_path / "emergency"
    child, url = start_witness(crew, "emergency", directory)

    async def put_until_killed(http: HttpxHttp) -> None:
        layer = emergency_layer(http, url)
        for number in range(200):
            try:
                await layer.put(b"blob %d" % number)
            except LayerFailed:
                return
            answered.append(b"blob %d" % number)
            if number == 20:
                asyncio.get_running_loop().call_later(0.01, child.kill)
        pytest.fail("the server was to be killed")

    async def read(http: HttpxHttp) -> None:
        found = await blobs_of(emergency_layer(http, url))
        assert found[: len(answered)] == answered
        assert len(found) <= len(answered) + 1, "at most the one under way is there besides"

    answered: list[bytes] = []
    tell(put_until_killed)
    assert len(answered) > 20
    start_witness(crew, "emergency", directory, port_of(url))
    tell(read)


def test_validators_are_known_by_what_they_print_and_outlive_kill_9(crew: Crew, tmp_path: Path) -> None:
    started = [start_witness(crew, "validator", tmp_path / f"v{number}") for number in range(3)]

    def layer_of(http: HttpxHttp) -> QuorumLayer:
        addresses = [
            ValidatorAddress(url.partition("#")[0], parse_public_key(url.partition("#")[2])) for _, url in started
        ]
        assert all(address.public_key is not None for address in addresses)
        return QuorumLayer(
            http, SystemClock(), addresses, CLUSTER, TOKEN.replace(" ", "-"), threshold_percent=67, timeout_ms=5_000
        )

    async def put(http: HttpxHttp) -> None:
        layer = layer_of(http)
        await layer.put(b"before")
        await layer.close()

    async def put_and_read(http: HttpxHttp) -> None:
        layer = layer_of(http)
        await layer.put(b"after")
        assert await blobs_of(layer) == [b"before", b"after"]
        await layer.close()

    tell(put)
    for number, (child, url) in enumerate(started):
        child.kill()
        again = start_witness(crew, "validator", tmp_path / f"v{number}", port_of(url))
        assert again[1] == url, "the same key under the same address"
        started[number] = again
    tell(put_and_read)


def test_a_witness_that_others_reach_wants_a_token(tmp_path: Path) -> None:
    tokens = ("WEFT_TOKENS", "LLORCH_API_TOKEN")
    environment = {name: value for name, value in os.environ.items() if name not in tokens}
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "weft.witness",
            "emergency",
            "--data",
            str(tmp_path),
            "--host",
            "0.0.0.0",
            "--port",
            "0",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert "WEFT_TOKENS" in ended.stderr


def test_two_witnesses_on_one_directory_are_one_too_many(crew: Crew, tmp_path: Path) -> None:
    start_witness(crew, "emergency", tmp_path / "emergency")
    ended = subprocess.run(
        [sys.executable, "-m", "weft.witness", "emergency", "--data", str(tmp_path / "emergency"), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert "another witness" in ended.stderr


def test_the_double_of_a_node_comes_back_with_its_chain(crew: Crew, tmp_path: Path) -> None:
    def start(port: int) -> tuple[Child, str, str]:
        flags = ["--block-ms", "20", "--file", str(tmp_path / "chain"), "--port", str(port), "--secret", "ab" * 32]
        child = crew.start("celestia", "-m", "weft.testing.celestia", *flags)
        url, token = child.line_with("listening on", DEADLINE_S).split(" listening on ")[1].split()
        return child, url, token

    child, url, token = start(0)

    def layer_of(http: HttpxHttp, archive: str) -> CelestiaLayer:
        return CelestiaLayer(
            http,
            SystemClock(),
            Archive(tmp_path / archive, layer="celestia"),
            Publisher(PUBLISHER),
            rpc_url=url,
            namespace=NAMESPACE,
            token=token,
            auth_header="Authorization",
            timeout_ms=5_000,
            poll_ms=20,
        )

    async def put(http: HttpxHttp) -> None:
        layer = layer_of(http, "archive")
        await layer.put(b"before")
        control = json.dumps({"fates": ["TIMES_OUT_AND_LANDS"]}).encode()
        await http.send("POST", f"{url}/control", headers={}, body=control, timeout_ms=5_000, answer_bytes_max=1_000)
        await layer.put(b"after a timeout")
        await layer.close()

    async def read(http: HttpxHttp) -> None:
        layer = layer_of(http, "another archive")
        assert await blobs_of(layer) == [b"before", b"after a timeout"]
        await layer.close()

    async def miss(http: HttpxHttp) -> None:
        layer = layer_of(http, "archive")
        with pytest.raises(LayerFailed) as failure:
            await layer.put(b"nobody is there")
        assert not isinstance(failure.value, LayerUnknown)
        await layer.close()

    tell(put)
    child.kill()
    tell(miss)
    start(port_of(url))
    tell(read)
