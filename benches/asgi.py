"""What a coordinator is compared with: a bare ASGI application, and the same two routes on FastAPI. Prints its port.

    python -m benches.asgi bare|fastapi

Both run as the coordinator does, on uvicorn with uvloop and httptools and the same settings. The bare one reads the
body and answers constant bytes, as long as the coordinator's: it is what no framework can be faster than. This file
imports nothing of Weft, so that it runs in an environment of its own, with FastAPI in it.
"""

import asyncio
import socket
import sys
from typing import Any

import uvicorn
import uvloop

HEARTBEAT_REPLY = b'{"success":true,"next_heartbeat_ms":10000}'
ENDPOINT_REPLY = (
    b'{"transport_type":"tcp","tcp_addr":"192.168.1.10","tcp_port":50051,"rdma_qpn":null,"rdma_lid":null,'
    b'"rdma_gid":null,"rdma_psn":null,"version":1}'
)


async def bare(scope: Any, receive: Any, send: Any) -> None:
    body = ENDPOINT_REPLY if scope["method"] == "GET" else HEARTBEAT_REPLY
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"weft-position", b"1"),
        (b"weft-request-id", b"0123456789abcdef-1"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def fastapi() -> Any:
    from fastapi import FastAPI
    from pydantic import BaseModel, Field

    class Pool(BaseModel):
        pool_id: str = Field(pattern="^[A-Za-z0-9_.-]{1,256}$")
        ready: bool
        draining: bool = False
        slots_free: int = Field(0, ge=0)
        slots_total: int = Field(0, ge=0)
        vram_free_bytes: int = Field(0, ge=0)
        engine: str | None = None

    class Heartbeat(BaseModel):
        timestamp: str | None = None
        pools: list[Pool] = []

    class HeartbeatReply(BaseModel):
        success: bool = True
        next_heartbeat_ms: int

    class Endpoint(BaseModel):
        transport_type: str
        tcp_addr: str | None
        tcp_port: int | None
        rdma_qpn: int | None
        rdma_lid: int | None
        rdma_gid: str | None
        rdma_psn: int | None
        version: int

    app = FastAPI()
    seen: dict[str, Heartbeat] = {}
    endpoint = Endpoint(
        transport_type="tcp",
        tcp_addr="192.168.1.10",
        tcp_port=50051,
        rdma_qpn=None,
        rdma_lid=None,
        rdma_gid=None,
        rdma_psn=None,
        version=1,
    )

    @app.post("/v2/nodes/{node_id}/heartbeat")
    async def heartbeat(node_id: str, body: Heartbeat) -> HeartbeatReply:
        seen[node_id] = body
        return HeartbeatReply(next_heartbeat_ms=10_000)

    @app.get("/nodes/{node_id}/endpoint")
    async def show(node_id: str) -> Endpoint:  # noqa: ARG001 — the path's parameter.
        return endpoint

    return app


def main() -> None:
    app = fastapi() if sys.argv[1] == "fastapi" else bare
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=2_048,
    )
    print(listener.getsockname()[1], flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
