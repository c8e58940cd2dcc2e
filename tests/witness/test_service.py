"""The witness over HTTP: what it keeps, what it signs, whom it lets in."""

import asyncio
import hashlib
import io
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from weft.model.canonical import sha3_hex
from weft.receipts import Domain, PublicKey, SigningKey, validator_statement, verify
from weft.serve import Gate
from weft.telemetry import Log
from weft.witness.log import BlobLog
from weft.witness.service import Witness
from weft.witness.shelf import Shelf

KEY = SigningKey(b"\x01" * 32, Domain.VALIDATOR)
CLUSTER = SigningKey.from_secret(b"cluster", Domain.PUBLISHER).public
BLOB = b"hello world"
COMMITMENT = sha3_hex(BLOB)
AUTH = {"authorization": "Bearer token"}


class SystemRandom:
    def draw(self, size_bytes: int) -> bytes:
        return os.urandom(size_bytes)


def play(
    directory: Path, story: Callable[[httpx.AsyncClient, Shelf], Awaitable[None]], *, key: SigningKey | None = None
) -> None:
    async def tell() -> None:
        shelf = Shelf(BlobLog(directory))
        log = Log(io.StringIO(), lambda: 0)
        witness = Witness(shelf, Gate(["token"]), SystemRandom(), log, key=key, name="v1")
        transport = httpx.ASGITransport(app=witness.app)
        async with (
            asyncio.timeout(10),
            httpx.AsyncClient(transport=transport, base_url="http://witness", headers=AUTH) as client,
        ):
            await story(client, shelf)
        await shelf.close()

    asyncio.run(tell())


async def put(client: httpx.AsyncClient, blob: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.put(f"/blob/{sha3_hex(blob)}", content=blob, headers=named)


def test_a_blob_that_was_put_is_given_back_as_it_was(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, _: Shelf) -> None:
        answer = await put(client, BLOB)
        assert (answer.status_code, answer.json()) == (200, {"commitment": COMMITMENT, "height": 1})
        got = await client.get(f"/blob/{COMMITMENT}")
        assert (got.status_code, got.content) == (200, BLOB)
        assert got.headers["content-type"] == "application/octet-stream"

    play(tmp_path, story)


def test_what_is_not_the_blob_of_its_commitment_is_not_kept(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, shelf: Shelf) -> None:
        answer = await client.put(f"/blob/{COMMITMENT}", content=b"something else")
        assert answer.status_code == 422
        assert hashlib.sha3_256(b"something else").hexdigest() in answer.json()["error"]
        assert (await client.put("/blob/ABC", content=BLOB)).status_code == 422
        assert shelf.log.count == 0

    play(tmp_path, story)


def test_a_blob_that_is_too_large_is_413(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, _: Shelf) -> None:
        assert (await put(client, bytes(2 * 1024 * 1024))).status_code == 200
        assert (await put(client, bytes(2 * 1024 * 1024 + 1))).status_code == 413

    play(tmp_path, story)


def test_a_blob_that_is_not_there_is_404_and_one_that_was_changed_502(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, shelf: Shelf) -> None:
        assert (await client.get(f"/blob/{COMMITMENT}")).status_code == 404
        await put(client, BLOB)
        entry = shelf.log.found(COMMITMENT)
        assert entry is not None
        with shelf.log.path.open("r+b") as file:
            file.seek(entry.offset)
            file.write(b"H")
        answer = await client.get(f"/blob/{COMMITMENT}")
        assert (answer.status_code, answer.json()["code"]) == (502, "DA_BLOB_DAMAGED")

    play(tmp_path, story)


def test_the_list_goes_on_from_a_place(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, _: Shelf) -> None:
        for number in range(5):
            await put(client, b"blob %d" % number)
        first = (await client.get("/blobs?limit=3")).json()
        assert ([line["height"] for line in first["blobs"]], first["next"], first["is_end"]) == ([1, 2, 3], 3, False)
        rest = (await client.get("/blobs?from=3")).json()
        assert ([line["height"] for line in rest["blobs"]], rest["next"], rest["is_end"]) == ([4, 5], 5, True)
        assert (await client.get("/blobs?from=x")).status_code == 422

    play(tmp_path, story)


def test_blobs_that_come_together_are_synced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    real = os.fsync

    def count(descriptor: int) -> None:
        syncs.append(descriptor)
        real(descriptor)

    async def story(client: httpx.AsyncClient, shelf: Shelf) -> None:
        syncs.clear()
        monkeypatch.setattr(os, "fsync", count)
        answers = await asyncio.gather(*(put(client, b"blob %d" % number) for number in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert shelf.log.count == 20
        assert len(syncs) < 10

    play(tmp_path, story)


def test_a_validator_signs_for_the_cluster_that_asks_and_under_its_name(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, _: Shelf) -> None:
        said = (await put(client, BLOB, weft_cluster=CLUSTER.hex())).json()
        assert said["validator_id"] == "v1"
        statement = validator_statement(CLUSTER, COMMITMENT, "v1")
        verify(PublicKey(KEY.public), Domain.VALIDATOR, statement, bytes.fromhex(said["signature_hex"]))
        again = (await put(client, BLOB, weft_cluster=CLUSTER.hex())).json()
        assert again == said, "the same height and the same signature"

    play(tmp_path, story, key=KEY)


def test_a_validator_signs_for_nobody_who_does_not_say_who_asks(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, shelf: Shelf) -> None:
        assert (await put(client, BLOB)).status_code == 422
        assert (await put(client, BLOB, weft_cluster="ab")).status_code == 422
        assert shelf.log.count == 0

    play(tmp_path, story, key=KEY)


@pytest.mark.parametrize("height", ["-1", "x", str(2**60)])
def test_heights_cannot_be_pushed_to_their_end(tmp_path: Path, height: str) -> None:
    async def story(client: httpx.AsyncClient, _: Shelf) -> None:
        assert (await put(client, BLOB, weft_height=height)).status_code == 422
        assert (await put(client, BLOB, weft_height="7")).json()["height"] == 7

    play(tmp_path, story)


def test_nobody_without_the_token_gets_further_than_the_health(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, _: Shelf) -> None:
        wrong = {"authorization": "Bearer wrong"}
        assert (await client.get("/blobs", headers=wrong)).status_code == 401
        assert (await client.put(f"/blob/{COMMITMENT}", content=BLOB, headers=wrong)).status_code == 401
        assert (await client.get(f"/blob/{COMMITMENT}", headers=wrong)).status_code == 401
        assert (await client.head("/health", headers=wrong)).status_code == 200

    play(tmp_path, story)


def test_the_metrics_are_prometheus_text(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, _: Shelf) -> None:
        await put(client, BLOB)
        assert "\nweft_witness_blobs 1\n" in (await client.get("/metrics")).text

    play(tmp_path, story)


def test_the_health_names_the_validator_and_fails_when_nothing_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(client: httpx.AsyncClient, _: Shelf) -> None:
        health: dict[str, Any] = (await client.get("/health")).json()
        assert (health["status"], health["validator_id"], health["public_key"]) == ("healthy", "v1", KEY.public.hex())

        def refuse(_: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", refuse)
        answer = await put(client, BLOB, weft_cluster=CLUSTER.hex())
        monkeypatch.undo()
        assert (answer.status_code, answer.json()["code"]) == (504, "DA_OUTCOME_UNKNOWN")
        assert (await client.get("/health")).status_code == 503

    play(tmp_path, story, key=KEY)
