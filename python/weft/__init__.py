"""Weft pools the memory of ordinary machines.

    import weft

    cluster = weft.connect()
    with cluster.region("scratch", size="64GiB").attach("exclusive") as memory:
        table = memory.numpy("f4", shape=(1 << 34,))

Names are loaded when they are first used: a coordinator imports this package too and needs none of the data plane.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from weft.client.attachment import Attachment
    from weft.client.client import AsyncClient, Client
    from weft.client.cluster import Cluster, connect
    from weft.client.endpoint import Endpoint
    from weft.client.member import Member
    from weft.client.pager import PagerHandle, start_pager
    from weft.client.region import Region
    from weft.dataplane.endpoint import Advert, Notification, Peer, Registration
    from weft.dataplane.pager import Local, Remote, Unknown
    from weft.dataplane.stats import FaultStats
    from weft.dataplane.transfer import Transfer
    from weft.model import errors

__version__: Final = "0.1.0"

__all__ = [
    "Advert",
    "AsyncClient",
    "Attachment",
    "Client",
    "Cluster",
    "Endpoint",
    "FaultStats",
    "Local",
    "Member",
    "Notification",
    "PagerHandle",
    "Peer",
    "Region",
    "Registration",
    "Remote",
    "Transfer",
    "Unknown",
    "__version__",
    "connect",
    "errors",
    "start_pager",
]

_HOMES: Final = {
    "Advert": "weft.dataplane.endpoint",
    "AsyncClient": "weft.client.client",
    "Attachment": "weft.client.attachment",
    "Client": "weft.client.client",
    "Cluster": "weft.client.cluster",
    "Endpoint": "weft.client.endpoint",
    "FaultStats": "weft.dataplane.stats",
    "Local": "weft.dataplane.pager",
    "Member": "weft.client.member",
    "Notification": "weft.dataplane.endpoint",
    "PagerHandle": "weft.client.pager",
    "Peer": "weft.dataplane.endpoint",
    "Region": "weft.client.region",
    "Registration": "weft.dataplane.endpoint",
    "Remote": "weft.dataplane.pager",
    "Transfer": "weft.dataplane.transfer",
    "Unknown": "weft.dataplane.pager",
    "connect": "weft.client.cluster",
    "start_pager": "weft.client.pager",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("weft.model.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
