"""The other side of a transfer: `partner.py TRANSPORT BYTES [allocated]` lends that much memory and answers until it is
ended; memory that Weft allocated, where that is said.

It prints its metadata and an advert of its memory. A notification "echo" of (tag, length) has it receive so much under
the tag and send it back under the next; "hash" has it answer with the SHA-256 of its memory; "stay" keeps it in one
long read of whoever says so.
"""

import contextlib
import hashlib
import struct
import sys

import weft
from weft.dataplane.endpoint import Endpoint


def main() -> None:
    transport, size = sys.argv[1], int(sys.argv[2])
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(Endpoint.listen(secret=b"tests", name="partner", transport=transport))
        memory = endpoint.allocate(size) if sys.argv[3:] == ["allocated"] else bytearray(size)
        registered = stack.enter_context(endpoint.register(memory))
        print(f"partner {endpoint.metadata.hex()} {registered.advertise().encode().hex()}", flush=True)
        peers: dict[str, weft.Peer] = {}
        while True:
            for notice in endpoint.notifications(60_000):
                if notice.sender not in peers:
                    met = endpoint.accept(5_000)
                    assert met is not None
                    peers[met.name] = met
                peer = peers[notice.sender]
                if notice.name == b"echo":
                    tag, length = struct.unpack("<QQ", notice.content)
                    buffer = bytearray(length)
                    assert peer.recv(buffer, tag=tag).wait() == length
                    peer.send(buffer, tag=(tag + 1) % 2**64).wait()
                else:
                    peer.notify(b"hash", hashlib.sha256(memory).digest()).wait()


if __name__ == "__main__":
    main()
