"""Fakes and the simulator: for our tests and for those of programs that use Weft.

A simulated world is one thread, one seed and a clock that nobody waits for. `SimulatedLoop` is an asyncio event loop
whose time is virtual, `Network` carries requests between simulated processes and loses some, `LenderDouble` stands for
a machine's memory, `DiskJournal` for a disk that forgets what was not synced, and `Cluster` composes them around the
real coordinator and real agents. `python -m weft.testing.sim` runs whole lives of clusters and checks what may never
happen after every step.
"""

from weft.testing.clock import ProcessClock
from weft.testing.cluster import Cluster
from weft.testing.disk import Disk, DiskJournal
from weft.testing.faults import Fault
from weft.testing.lender import LenderDouble
from weft.testing.loop import SimulatedLoop
from weft.testing.network import Network, Weather
from weft.testing.process import Process
from weft.testing.stock import Shelf, StockDouble

__all__ = [
    "Cluster",
    "Disk",
    "DiskJournal",
    "Fault",
    "LenderDouble",
    "Network",
    "Process",
    "ProcessClock",
    "Shelf",
    "SimulatedLoop",
    "StockDouble",
    "Weather",
]
