"""The other side of a transfer: `partner.py TRANSPORT BYTES` lends that much memory and answers until it is ended.

It prints its metadata and an advert of its memory. A notification "echo" of (tag, length) has it receive so much under
the tag and send it back under the next; "hash" has it answer with the SHA-256 of its memory; "stay" keeps it in one
long read of whoever says so.
"""

import hashlib
import struct
import sys

import weft
from weft.dataplane.endpoint import Endpoint


def main() -> None:
    transport, size = sys.argv[1], int(sys.argv[2])
    memory = bytearray(size)
    with (
        Endpoint.listen(secret=b"tests", name="partner", transport=transport) as endpoint,
        endpoint.register(memory) as registered,
    ):
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
