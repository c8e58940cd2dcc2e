"""`weft.Endpoint()`: an endpoint of this user's processes, or of a cluster, without a word of configuration."""

import os

from weft.client.security import speak_tls
from weft.config import create_secret, data_directory, find_secret, rdma_choice
from weft.dataplane import endpoint as dataplane
from weft.dataplane import prepare_rdma
from weft.model.errors import Misconfigured


def Endpoint(  # noqa: N802 - made like a class, and what it gives is one.
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    secret: bytes | None = None,
    cluster_id: bytes | None = None,
) -> dataplane.Endpoint:
    """Listens at `host`, at a port of the kernel's choice if none is said.

    The secret is WEFT_SECRET, or the one in the data directory that processes of one user share; it is made where there
    is none. Only endpoints that hold the same one can connect. Where WEFT_TLS_CERT and its like name certificates,
    other machines are spoken to over TLS. Raises `Misconfigured`.
    """
    known = secret or find_secret(os.environ) or create_secret(data_directory(os.environ))
    congestion, transport = ways_asked()
    return dataplane.Endpoint.listen(
        secret=known,
        name=name,
        host=host,
        port=port,
        cluster_id=cluster_id,
        congestion=congestion,
        transport=transport,
    )


def calling_endpoint(*, name: str, secret: bytes, cluster_id: bytes) -> dataplane.Endpoint:
    """One that does not listen, by the same variables: for whoever only reaches nodes. Raises `Misconfigured`."""
    congestion, transport = ways_asked()
    return dataplane.Endpoint.caller(
        secret=secret, name=name, cluster_id=cluster_id, congestion=congestion, transport=transport
    )


def ways_asked() -> tuple[str | None, str | None]:
    """The congestion control and the transport that are asked for; RDMA is taken into use where it may be."""
    congestion = os.environ.get("WEFT_TCP_CONGESTION", "").strip() or None
    transport = os.environ.get("WEFT_TRANSPORT", "").strip() or None
    if transport not in (None, *dataplane.TRANSPORTS):
        known_ones = ", ".join(dataplane.TRANSPORTS)
        raise Misconfigured(f"WEFT_TRANSPORT is one of {known_ones}, not {transport!r}", variable="WEFT_TRANSPORT")
    if speak_tls(os.environ) is not None and transport in ("rdma", "tcpx"):
        raise Misconfigured(
            f"WEFT_TRANSPORT={transport} goes past TLS, which WEFT_TLS_CERT asks for; unset one of them",
            variable="WEFT_TRANSPORT",
        )
    if transport in (None, "rdma"):
        prepare_rdma(rdma_choice(os.environ))
    return congestion, transport
