"""Mooncake's transfer engine over TCP, handshake between peers (no metadata server), default configuration."""

import os
import sys

os.environ.setdefault("MC_LOG_LEVEL", "ERROR")
os.environ.setdefault("GLOG_minloglevel", "2")

import numpy as np
from mooncake.engine import TransferEngine
from timing import FILLED, WALK_BYTES, beside, end_with_parent, finish, measure, operations


def started() -> tuple[TransferEngine, "np.ndarray"]:
    engine = TransferEngine()
    assert engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
    memory = np.ones(WALK_BYTES, np.uint8)
    memory[:] = 0
    assert engine.register_memory(memory.ctypes.data, WALK_BYTES) == 0
    return engine, memory


def serve() -> None:
    end_with_parent()
    engine, memory = started()
    memory[:] = FILLED
    print(f"PEER 127.0.0.1:{engine.get_rpc_port()} {memory.ctypes.data}", flush=True)
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    wanted = operations()
    other = beside("serve")
    assert other.stdout is not None
    engine, memory = started()
    line = other.stdout.readline()
    while not line.startswith("PEER "):
        assert line, "the other end ended before it was up"
        line = other.stdout.readline()
    _, segment, text = line.split()
    here, there = memory.ctypes.data, int(text)
    one = {"read": engine.transfer_sync_read, "write": engine.transfer_sync_write}
    many = {"read": engine.batch_transfer_sync_read, "write": engine.batch_transfer_sync_write}
    results = {}
    for operation in wanted:
        size = operation.size_bytes

        def call(index: int) -> None:
            offsets = operation.offsets(index)  # noqa: B023
            if len(offsets) == 1:
                code = one[operation.kind](segment, here + offsets[0], there + offsets[0], size)  # noqa: B023
            else:
                sizes = [size] * len(offsets)  # noqa: B023
                ours, theirs = [here + offset for offset in offsets], [there + offset for offset in offsets]
                code = many[operation.kind](segment, ours, theirs, sizes)  # noqa: B023
            assert code == 0, f"it answered {code}"

        results[operation.name] = measure(operation, call)
        if operation.kind == "read":
            assert memory[0] == FILLED, "what was read is not what is there"
    finish(results)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
