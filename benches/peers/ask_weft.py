"""Weft's own row: two endpoints, one-sided, over TCP (on one machine it would otherwise choose something quicker)."""

import os
import sys

import numpy as np

from benches.peers.timing import FILLED, WALK_BYTES, beside, end_with_parent, finish, measure, operations
from weft.dataplane.endpoint import Advert, Endpoint

SECRET = b"a bench's secret"


def endpoint(name: str) -> Endpoint:
    congestion = os.environ.get("WEFT_TCP_CONGESTION") or None
    return Endpoint.listen(secret=SECRET, name=name, congestion=congestion, transport="tcp")


def serve() -> None:
    end_with_parent()
    with endpoint("target") as here, here.register(np.full(WALK_BYTES, FILLED, np.uint8)) as memory:
        print(here.metadata.hex(), memory.advertise().encode().hex(), flush=True)
        sys.stdin.read()


def main() -> None:
    wanted = operations()
    other = beside("serve")
    assert other.stdout is not None
    metadata, advertised = (bytes.fromhex(word) for word in other.stdout.readline().split())
    advert = Advert(advertised)
    memory = np.ones(WALK_BYTES, np.uint8)  # Touched: zeros would be pages that are made at their first use.
    here = endpoint("initiator")
    peer = here.connect(metadata)
    move = {"read": peer.read_now, "write": peer.write_now}
    move_many = {"read": peer.readv_now, "write": peer.writev_now}
    results, view = {}, memoryview(memory)
    with here.register(memory):
        for operation in wanted:
            size = operation.size_bytes
            # Cut ahead, as NIXL's descriptors are: what is measured is the transfer.
            calls = max(1, WALK_BYTES // (size * operation.ranges))
            cut = [
                [(advert, offset, view[offset : offset + size]) for offset in operation.offsets(index)]
                for index in range(calls)
            ]
            one, many = move[operation.kind], move_many[operation.kind]

            def call(index: int) -> None:
                items = cut[index % calls]  # noqa: B023
                if len(items) == 1:
                    _, offset, part = items[0]
                    one(advert, part, offset=offset)  # noqa: B023
                else:
                    many(items)  # noqa: B023

            results[operation.name] = measure(operation, call)
            if operation.kind == "read":
                assert memory[0] == FILLED, "what was read is not what is there"
    finish(results)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
