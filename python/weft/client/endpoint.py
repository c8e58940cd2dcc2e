"""`weft.Endpoint()`: an endpoint of this user's processes, or of a cluster, without a word of configuration."""

import os
from collections.abc import Mapping

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
    is none. Only endpoints that hold the same one can connect. Raises `Misconfigured`.
    """
    known = secret or find_secret(os.environ) or create_secret(data_directory(os.environ))
    congestion, transport = congestion_asked(os.environ), transport_asked(os.environ)
    if transport in (None, "rdma"):
        prepare_rdma(rdma_choice(os.environ))
    return dataplane.Endpoint.listen(
        secret=known,
        name=name,
        host=host,
        port=port,
        cluster_id=cluster_id,
        congestion=congestion,
        transport=transport,
    )


def congestion_asked(env: Mapping[str, str]) -> str | None:
    """WEFT_TCP_CONGESTION: the congestion control of TCP lanes, None for the endpoint's own choice."""
    return env.get("WEFT_TCP_CONGESTION", "").strip() or None


def transport_asked(env: Mapping[str, str]) -> str | None:
    """WEFT_TRANSPORT: the one transport to keep to, None for the best there is. Raises `Misconfigured`."""
    transport = env.get("WEFT_TRANSPORT", "").strip() or None
    if transport not in (None, *dataplane.TRANSPORTS):
        known_ones = ", ".join(dataplane.TRANSPORTS)
        raise Misconfigured(f"WEFT_TRANSPORT is one of {known_ones}, not {transport!r}", variable="WEFT_TRANSPORT")
    return transport
