"""A member of the cluster, told what to do line by line: `member.py NAME BYTES`.

It joins, lends that much memory and prints an advert of it. Then, for each line on its input, it answers with one:

    rdma · tcp · pull         take the device up, give it up, have it pulled out
    load PEER ADVERT          write and read that memory from now on, and look at every byte
    settled                   how many rounds of that were made and how many failed, once it has stopped
    ways                      how its peers are reached, as JSON
    violations                what the fake library says was done wrong
"""

import ctypes
import json
import logging
import random
import sys
import threading
import time

import msgspec

import weft

CHUNK = 128 << 10
CHUNKS = 4
WORKERS = 4


class Load:
    """Threads that write what is different each time and read it back, waiting for it or many at once."""

    def __init__(self, peer: weft.Peer, advert: weft.Advert) -> None:
        self.peer, self.advert = peer, advert
        self.rounds, self.failures = 0, list[str]()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._workers = [threading.Thread(target=self._work, args=(index,)) for index in range(WORKERS)]
        for worker in self._workers:
            worker.start()

    def stop(self) -> str:
        self._stopped.set()
        for worker in self._workers:
            worker.join(30)
        return f"{self.rounds} rounds, {len(self.failures)} failed {self.failures[:3]}"

    def _work(self, index: int) -> None:
        chance = random.Random(index)
        while not self._stopped.is_set():
            try:
                self._round(index, chance)
            except Exception as error:
                with self._lock:
                    self.failures.append(f"{type(error).__name__}: {error}")
            with self._lock:
                self.rounds += 1
            # Beats and records want this process's time as well.
            time.sleep(0.005)

    def _round(self, index: int, chance: random.Random) -> None:
        first = index * CHUNKS * CHUNK
        written = [chance.randbytes(CHUNK) for _ in range(CHUNKS)]
        read = [bytearray(CHUNK) for _ in range(CHUNKS)]
        places = [first + number * CHUNK for number in range(CHUNKS)]
        if index % 2:
            for data, place in zip(written, places, strict=True):
                self.peer.write_now(self.advert, data, offset=place)
            self.peer.readv_now([(self.advert, place, into) for place, into in zip(places, read, strict=True)])
        else:
            for moving in [
                self.peer.write(self.advert, data, offset=at) for data, at in zip(written, places, strict=True)
            ]:
                assert moving.wait() == CHUNK
            for moving in [self.peer.read(self.advert, into, offset=at) for into, at in zip(read, places, strict=True)]:
                assert moving.wait() == CHUNK
        assert [bytes(one) for one in read] == written, "other bytes came back"


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="log %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    name, size = sys.argv[1], int(sys.argv[2])
    load: Load | None = None
    with weft.connect() as cluster, cluster.join(name) as member, member.endpoint.register(bytearray(size)) as memory:
        print(f"member {name} {memory.advertise().encode().hex()}", flush=True)
        for line in sys.stdin:
            match line.split():
                case ["rdma"]:
                    answer = str(member.use_rdma().queue_pair)
                case ["tcp"]:
                    member.drop_rdma()
                    answer = "given up"
                case ["pull"]:
                    ctypes.CDLL("libibverbs.so.1").weft_fake_remove()
                    answer = "pulled"
                case ["violations"]:
                    answer = str(ctypes.CDLL("libibverbs.so.1").weft_fake_violations())
                case ["load", peer, advert]:
                    load = Load(member.peer(peer), weft.Advert(bytes.fromhex(advert)))
                    answer = "begun"
                case ["settled"]:
                    answer = load.stop() if load is not None else "nothing was begun"
                case ["ways"]:
                    answer = json.dumps(msgspec.to_builtins(member.ways()))
                case _:
                    answer = "what?"
            print(f"answer {line.split()[0]} {answer}", flush=True)


if __name__ == "__main__":
    main()
