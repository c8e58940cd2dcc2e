"""NIXL over UCX's TCP: one-sided, descriptors prepared ahead (its quickest use), default configuration."""

import itertools
import os
import sys

os.environ.setdefault("NIXL_LOG_LEVEL", "ERROR")
os.environ["UCX_TLS"] = "tcp"

import numpy as np
from nixl_cu12._api import nixl_agent, nixl_agent_config
from timing import (
    FILLED,
    START_SECONDS_MAX,
    WALK_BYTES,
    Operation,
    beside,
    end_with_parent,
    finish,
    measure,
    operations,
)

PREPARED_MAX = 64


def serve() -> None:
    end_with_parent()
    agent = nixl_agent("target", nixl_agent_config())
    memory = np.full(WALK_BYTES, FILLED, np.uint8)
    agent.register_memory([(memory.ctypes.data, WALK_BYTES, 0, "")], "DRAM")
    print(agent.get_agent_metadata().hex(), memory.ctypes.data, flush=True)
    agent.add_remote_agent(bytes.fromhex(sys.stdin.readline()))
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    wanted = operations()
    other = beside("serve")
    assert other.stdin is not None
    assert other.stdout is not None
    agent = nixl_agent("initiator", nixl_agent_config())
    memory = np.ones(WALK_BYTES, np.uint8)
    agent.register_memory([(memory.ctypes.data, WALK_BYTES, 0, "")], "DRAM")
    metadata, remote = other.stdout.readline().split()
    other.stdin.write(agent.get_agent_metadata().hex() + "\n")
    other.stdin.flush()
    agent.add_remote_agent(bytes.fromhex(metadata))
    assert other.stdout.readline() == "ready\n", f"the other end was not up within {START_SECONDS_MAX} s"

    def carry_out(handle: object) -> None:
        state = agent.transfer(handle)
        while state == "PROC":
            state = agent.check_xfer_state(handle)
        assert state == "DONE", state

    def prepared(operation: Operation) -> list[object]:
        def described(base: int, offsets: list[int]) -> object:
            return agent.get_xfer_descs([(base + offset, operation.size_bytes, 0) for offset in offsets], "DRAM")

        handles = []
        for index in range(min(PREPARED_MAX, WALK_BYTES // (operation.size_bytes * operation.ranges))):
            offsets = operation.offsets(index)
            here, there = described(memory.ctypes.data, offsets), described(int(remote), offsets)
            handles.append(agent.initialize_xfer(operation.kind.upper(), here, there, "target"))
        return handles

    results = {}
    for operation in wanted:
        handles = itertools.cycle(prepared(operation))
        results[operation.name] = measure(operation, lambda _: carry_out(next(handles)))  # noqa: B023
        if operation.kind == "read":
            assert memory[0] == FILLED, "what was read is not what is there"
    finish(results)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
