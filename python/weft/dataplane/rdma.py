"""RDMA, where there is any: the process's one device, and what a node publishes of it.

Nothing asks for RDMA. A process that may use it looks once for a device; whoever has none goes on over TCP, and so does
every transfer whose queue pair fails. `WEFT_RDMA` is "auto", "off", or a device's name.
"""

from typing import Any

import msgspec

from weft import _native
from weft.model.errors import NotSupported

AUTO = "auto"
OFF = "off"


class RdmaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoint record says of a node's RDMA. Its queue pair says that it is there; peers agree on others."""

    queue_pair: int
    lid: int
    gid: str
    packet_sequence: int


class RdmaState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device is in use, and why not."""

    device: str | None
    reason: str = ""


def prepare_rdma(choice: str = AUTO) -> RdmaState:
    """Takes a device into use for this process, if the choice allows and there is one. Twice is once.

    Raises NotSupported only when a device was named and cannot be had.
    """
    if choice == OFF:
        return RdmaState(device=None, reason="WEFT_RDMA is off")
    try:
        return RdmaState(device=_native.use_rdma(device=None if choice == AUTO else choice))
    except NotSupported as error:
        if choice != AUTO:
            raise
        return RdmaState(device=None, reason=str(error))


def report_rdma() -> dict[str, Any] | None:
    """The device, what moved over it, and what was said since the last call; None when no device is in use."""
    return _native.rdma_report()
