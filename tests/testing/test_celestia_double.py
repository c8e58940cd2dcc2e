"""The double of a Celestia node keeps the rules a node does: what it wants, what it says, what it forgets."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ledger.stages import NAMESPACE
from weft.ledger.layers.celestia.commitment import share_commitment
from weft.testing.celestia import ChainDouble, NodeDouble, mint_token

SECRET = b"secret"
TEXT = base64.b64encode(NAMESPACE).decode()
DATA = b"hello"
MARK = base64.b64encode(share_commitment(NAMESPACE, DATA)).decode()
BLOB = {"namespace": TEXT, "data": base64.b64encode(DATA).decode(), "share_version": 0, "commitment": MARK, "index": -1}
WRITER = mint_token(SECRET, "public", "read", "write")


class Caller:
    """A client that says exactly what it is told to."""

    def __init__(self, node: NodeDouble) -> None:
        self.node = node
        self.chain = node.chain
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app=node), base_url="http://node")

    async def send(self, body: Any, token: str | None = WRITER, method: str = "POST") -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._client.request(method, "/", content=content, headers=headers)

    async def call(self, method: str, *params: Any, token: str | None = WRITER) -> Any:
        answer = await self.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, token)
        said = answer.json()
        assert ("error" in said) is not ("result" in said), "one or the other"
        return said["error"] if "error" in said else said["result"]

    async def submit(self, *blobs: Any, options: Any = None, token: str | None = WRITER) -> Any:
        asking = asyncio.ensure_future(self.call("blob.Submit", list(blobs), options or {}, token=token))
        await asyncio.sleep(0.01)
        self.chain.produce()
        return await asking


def play(story: Callable[[Caller], Awaitable[None]], *, secret: bytes | None = SECRET) -> None:
    async def tell() -> None:
        async with asyncio.timeout(10):
            await story(Caller(NodeDouble(ChainDouble(), secret)))

    asyncio.run(tell())


def test_a_submission_is_answered_with_its_height_after_its_block() -> None:
    async def story(caller: Caller) -> None:
        height = await caller.submit(BLOB)
        assert height == 2
        assert await caller.call("blob.Get", 2, TEXT, MARK) == {**BLOB, "index": 0}
        assert (await caller.call("blob.GetAll", 2, [TEXT]))[0]["commitment"] == MARK

    play(story)


def test_a_height_without_blobs_is_null_and_not_an_empty_list() -> None:
    async def story(caller: Caller) -> None:
        assert await caller.call("blob.GetAll", 1, [TEXT]) is None
        assert (await caller.call("blob.Get", 1, TEXT, MARK))["message"] == "blob: not found"

    play(story)


def test_headers_have_their_heights_as_strings_and_the_sync_state_as_numbers() -> None:
    async def story(caller: Caller) -> None:
        assert (await caller.call("header.NetworkHead"))["header"]["height"] == "1"
        assert (await caller.call("header.SyncState"))["to_height"] == 1

    play(story)


@pytest.mark.parametrize(
    ("allow", "method", "params", "need"),
    [
        ((), "blob.GetAll", (1, [TEXT]), "read"),
        (("public", "read"), "blob.Submit", ([BLOB], {}), "write"),
        (("public", "read", "write"), "node.Info", (), "admin"),
    ],
)
def test_a_token_allows_what_it_says(allow: tuple[str, ...], method: str, params: tuple[Any, ...], need: str) -> None:
    async def story(caller: Caller) -> None:
        token = mint_token(SECRET, *allow) if allow else None
        error = await caller.call(method, *params, token=token)
        assert error == {
            "code": 1,
            "message": f"missing permission to invoke '{method.partition('.')[2]}' (need '{need}')",
        }

    play(story)


@pytest.mark.parametrize(
    "token", ["nonsense", mint_token(b"another", "read"), mint_token(SECRET, "read", expires_at_s=time.time() - 60)]
)
def test_a_token_that_is_no_good_is_401_before_anything_is_read(token: str) -> None:
    async def story(caller: Caller) -> None:
        assert (await caller.send(b"not even JSON", token)).status_code == 401

    play(story)


def test_a_node_without_authentication_wants_none() -> None:
    async def story(caller: Caller) -> None:
        assert await caller.call("node.Info", token=None)

    play(story, secret=None)


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        (b"{", 500, -32700, "unmarshaling"),
        (b"[]", 400, -32600, "Invalid request"),
        (b'{"id": 1}', 400, -32600, "Invalid request"),
        ({"id": 1, "method": "da.Submit", "params": []}, 500, -32601, "method 'da.Submit' not found"),
        ({"id": 1, "method": "blob.Subscribe", "params": [TEXT]}, 500, -32601, "no out channel support"),
        ({"id": 1, "method": "blob.GetAll", "params": [1]}, 500, -32602, "wrong param count"),
        ({"id": 1, "method": "blob.GetAll", "params": {"height": 1}}, 500, -32602, "wrong param count"),
        ({"id": 1, "method": "blob.GetAll", "params": ["1", [TEXT]]}, 500, -32602, "uint64"),
        (b"x" * (16 * 1024 * 1024 + 1), 500, -32700, "request bigger than maximum"),
    ],
)
def test_a_wrong_request_is_a_json_error_with_a_status(body: Any, status: int, code: int, said: str) -> None:
    async def story(caller: Caller) -> None:
        answer = await caller.send(body)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
        assert said in answer.json()["error"]["message"]

    play(story)


def test_a_batch_of_calls_is_answered_call_by_call() -> None:
    async def story(caller: Caller) -> None:
        calls = [{"id": number, "method": "blob.GetAll", "params": [number, [TEXT]]} for number in (1, 9)]
        one, other = (await caller.send(calls)).json()
        assert (one["id"], one["result"]) == (1, None)
        assert "from the future: networkHeight: 1, requestedHeight: 9" in other["error"]["message"]

    play(story)


def test_null_for_options_is_a_panic_and_a_price_alone_is_ignored() -> None:
    async def story(caller: Caller) -> None:
        error = await caller.call("blob.Submit", [BLOB], None)
        assert (error["code"], error["message"][:14]) == (0, "fatal error ca")
        assert await caller.submit(BLOB, options={"gas_price": 100.0}) == 2
        error = await caller.call("blob.Submit", [BLOB], {"gas_price": 100.0, "is_gas_price_set": True})
        assert error["message"] == "state: estimated gas price exceeds max gas price in tx config"

    play(story)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"namespace": base64.b64encode(bytes(29)).decode()}, "reserved"),
        ({"namespace": base64.b64encode(b"\xff" * 29).decode()}, "reserved"),
        ({"namespace": base64.b64encode(bytes(28)).decode()}, "namespace length"),
        ({"data": ""}, "empty"),
        ({"commitment": base64.b64encode(bytes(32)).decode()}, "does not match"),
        ({"data": base64.b64encode(bytes(9 * 1024 * 1024)).decode(), "commitment": ""}, "over size limit"),
    ],
)
def test_a_blob_no_chain_would_take_is_refused(change: dict[str, str], said: str) -> None:
    async def story(caller: Caller) -> None:
        assert said in (await caller.call("blob.Submit", [{**BLOB, **change}], {}))["message"]

    play(story)


def test_below_the_tail_there_is_nothing_any_more() -> None:
    async def story(caller: Caller) -> None:
        await caller.submit(BLOB)
        caller.chain.produce()
        caller.chain.prune(3)
        error = await caller.call("blob.GetAll", 2, [TEXT])
        assert error["message"] == "requested header (2) is below Tail (3)"
        assert (await caller.call("header.Tail"))["header"]["height"] == "3"

    play(story)


def test_a_chain_with_a_file_comes_back_without_a_line_that_was_torn(tmp_path: Path) -> None:
    async def story(_: Caller) -> None:
        chain = ChainDouble(file=tmp_path / "chain")
        chain.submit([BLOB])
        chain.produce()
        chain.close()
        with (tmp_path / "chain").open("a") as file:
            file.write('{"height": 3, "blo')
        back = ChainDouble(file=tmp_path / "chain")
        assert (back.head, back.blobs(2)) == (2, [BLOB])
        assert back.produce() == 3
        back.close()

    play(story)
