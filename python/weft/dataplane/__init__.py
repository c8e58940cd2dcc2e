"""The Python face of the data plane: remote memory, what a node lends, the pager. Only it imports the native core."""

from weft.dataplane.choice import Registered
from weft.dataplane.holder import Holder, Sink, Source, persistently
from weft.dataplane.lender import HeldExtent, Lender, Message
from weft.dataplane.machine import MachineMemory, limits, measure_memory, report_machine
from weft.dataplane.memory import RegionMemory
from weft.dataplane.pager import Local, PageOwner, Pager, Remote, Unknown
from weft.dataplane.rdma import RdmaRecord, RdmaState, prepare_rdma, report_rdma
from weft.dataplane.stats import FaultStats
from weft.dataplane.tls import issue_certificate, leave_tls, make_authority, prepare_tls, tls_names
from weft.dataplane.ways import PeerDistance, WayReport

__all__ = [
    "FaultStats",
    "HeldExtent",
    "Holder",
    "Lender",
    "Local",
    "MachineMemory",
    "Message",
    "PageOwner",
    "Pager",
    "PeerDistance",
    "RdmaRecord",
    "RdmaState",
    "RegionMemory",
    "Registered",
    "Remote",
    "Sink",
    "Source",
    "Unknown",
    "WayReport",
    "issue_certificate",
    "leave_tls",
    "limits",
    "make_authority",
    "measure_memory",
    "persistently",
    "prepare_rdma",
    "prepare_tls",
    "report_machine",
    "report_rdma",
    "tls_names",
]
