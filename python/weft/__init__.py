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
    from weft.client.pager import PagerHandle, start_pager
    from weft.client.region import Region
    from weft.dataplane.pager import Local, Remote, Unknown
    from weft.dataplane.stats import FaultStats
    from weft.model import errors

__version__: Final = "0.1.0"

__all__ = [
    "AsyncClient",
    "Attachment",
    "Client",
    "Cluster",
    "FaultStats",
    "Local",
    "PagerHandle",
    "Region",
    "Remote",
    "Unknown",
    "__version__",
    "connect",
    "errors",
    "start_pager",
]

_HOMES: Final = {
    "AsyncClient": "weft.client.client",
    "Attachment": "weft.client.attachment",
    "Client": "weft.client.client",
    "Cluster": "weft.client.cluster",
    "FaultStats": "weft.dataplane.stats",
    "Local": "weft.dataplane.pager",
    "PagerHandle": "weft.client.pager",
    "Region": "weft.client.region",
    "Remote": "weft.dataplane.pager",
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
