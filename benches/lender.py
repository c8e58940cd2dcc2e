"""A lender in a process of its own, for the other benchmarks: prints its port, ends with its standard input."""

import ctypes
import functools
import os
import signal
import subprocess
import sys
import time

import weft.dataplane
from weft.dataplane.endpoint import Advert, Endpoint, Peer
from weft.model.attachment import Mode, Right
from weft.model.grant import Grant, grant_key, mint
from weft.model.ids import ClusterId, Generation, RegionId

CLUSTER_ID = b"a bench's id 016"
SECRET = b"a bench's secret"
REGION_ID = "r0000000000000001"
INCARNATION = 77
PR_SET_PDEATHSIG = 1


def grant() -> bytes:
    """A grant for the whole bench."""
    whole = Grant(
        cluster_id=ClusterId(CLUSTER_ID),
        region_id=RegionId(REGION_ID),
        generation=Generation(1),
        mode=Mode.EXCLUSIVE,
        rights=Right.READ | Right.WRITE,
        holder="bench",
        expires_at_ms=int(time.time() * 1000) + 3_600_000,
    )
    return mint(whole, grant_key(SECRET))


class Lender:
    """Starts the process; a context manager."""

    def __init__(self, size_bytes: int) -> None:
        command = [sys.executable, "-m", "benches.lender", str(size_bytes)]
        self._size_bytes = size_bytes
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> "Lender":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def connect(self) -> Peer:
        """The way to it over TCP, with this bench's congestion control."""
        return caller().connect(("127.0.0.1", self.port))

    def extent(self) -> Advert:
        """The right to what it lends."""
        return Advert.of_extent(REGION_ID, 0, INCARNATION, self._size_bytes, grant())


@functools.cache
def caller() -> Endpoint:
    """This process's end, for as long as it lives."""
    return Endpoint.caller(cluster_id=CLUSTER_ID, secret=SECRET, name="bench", congestion=congestion(), transport="tcp")


def congestion() -> str | None:
    return os.environ.get("WEFT_TCP_CONGESTION") or None


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    lender = weft.dataplane.Lender.listen(
        host="127.0.0.1",
        port_first=0,
        port_last=0,
        cluster_id=CLUSTER_ID,
        secret=SECRET,
        name="lender",
        incarnation=INCARNATION,
        congestion=congestion(),
    )
    lender.reserve_extent(REGION_ID, 0, int(sys.argv[1]), 1)
    print(lender.port, flush=True)
    sys.stdin.read()
    lender.close()


if __name__ == "__main__":
    main()
