"""`weft demo ledger`: the log's first layer is killed, writes go on, it comes back, and a report compares the bytes.

Everything is a process of its own: a double of a Celestia node (the only thing here that is not the real one), four
validators, the emergency server, and a coordinator that ships its log to them. Nothing is simulated and nothing waits
for a fixed time: each line stands for something that was seen.
"""

import re
import secrets
import time
from collections.abc import Callable

import click
from msgspec import Struct
from rich.console import Console

from weft.cli.demo.cluster import OWN_SETTINGS, start_coordinator
from weft.cli.demo.crew import Child, Crew
from weft.cli.demo.interrupt import stopped_in_order
from weft.cli.failure import CommandFailed, failures_as_sentences, one_sentence
from weft.cli.ledger.layers import layer_table, read_layers
from weft.client import Client
from weft.model.grant import http_token

NAMESPACE = "00" * 19 + "77656674000000000001"
VALIDATORS = 4
INTERVAL_MS = 500
FAILURES = 3
WRITES = 12
BLOCK_MS = 100
# How long a process may take until it listens, and anything here until it is seen.
_START_S = 20.0
_SEEN_S = 30.0
_SETTINGS = frozenset(
    {
        "USE_MOCK_DA",
        "DA_RPC_URL",
        "DA_NAMESPACE",
        "DA_AUTH_TOKEN",
        "DA_NETWORK",
        "DA_TIMEOUT_MS",
        "DA_RETRY_COUNT",
        "DA_RETRY_DELAY_MS",
        "WEFT_DA_AUTH_HEADER",
        "WEFT_DA_GAS_PRICE",
        "ENABLE_FALLBACK",
        "FALLBACK_DA_TYPE",
        "QUORUM_VALIDATORS",
        "QUORUM_THRESHOLD",
        "QUORUM_SIGNATURE_TIMEOUT_MS",
        "WEFT_QUORUM_TOKEN",
        "EMERGENCY_DA_URL",
        "WEFT_EMERGENCY_DA_TOKEN",
        "RECONCILE_BATCH_SIZE",
        "RECONCILE_RETRY_DELAY_MS",
        "RECONCILE_MAX_RETRIES",
        "RECONCILE_PARALLEL",
        "WEFT_DA_CHECK_INTERVAL_MS",
        "WEFT_DA_FAILURE_THRESHOLD",
        "WEFT_DA_RECOVERY_THRESHOLD",
        "WEFT_DA_AUTO_RECONCILE",
        "WEFT_ACK",
        "WEFT_JOURNAL",
    }
)


class Chain(Struct, frozen=True, kw_only=True):
    """The double of a Celestia node, where it is and what it lets in."""

    child: Child
    port: int
    token: str


@click.command()
def ledger() -> None:
    """Kill the layer the log is kept in, go on writing, bring it back, and compare every byte."""
    with failures_as_sentences():
        try:
            with stopped_in_order():
                tell(Console(highlight=False))
        except OSError as error:
            raise CommandFailed(one_sentence(f"the demo could not go on: {error}")) from error


def tell(console: Console) -> None:
    """Runs the demo. Raises CommandFailed when anything is not as promised."""
    secret, node_secret = secrets.token_hex(32), secrets.token_hex(32)
    with Crew({"WEFT_SECRET": secret}, without=OWN_SETTINGS | _SETTINGS) as crew:
        chain = _start_chain(crew, node_secret)
        validators = [_start_witness(crew, "validator", number) for number in range(VALIDATORS)]
        emergency = _start_witness(crew, "emergency", 0)
        console.print(f"primary     a double of a Celestia node, port {chain.port}, a block every {BLOCK_MS} ms")
        console.print(f"secondary   {VALIDATORS} validators that keep and sign, three must")
        console.print(f"emergency   one server that keeps what nothing else takes, {emergency[1]}")
        url = _start_coordinator(crew, chain, [validator[1] for validator in validators], emergency[1])
        with Client(url, token=http_token(secret.encode())) as client:
            _Story(console, crew, client, chain, validators, node_secret).tell()
    console.print("\nevery process has ended and nothing is left behind")


class _Story:
    """The chapters, and how many writes were acknowledged so far."""

    def __init__(
        self,
        console: Console,
        crew: Crew,
        client: Client,
        chain: Chain,
        validators: list[tuple[Child, str]],
        node_secret: str,
    ) -> None:
        self._console, self._crew, self._client = console, crew, client
        self._chain, self._validators, self._node_secret = chain, validators, node_secret
        self._acknowledged: list[str] = []

    def tell(self) -> None:
        """All of it."""
        self._seen("healthy", lambda: self._standing() == "healthy")
        self._before()
        self._outage()
        self._worse()
        self._recovery()
        self._proof()

    def _before(self) -> None:
        took_ms = [self._write() for _ in range(3)]
        self._console.print(
            f"\n3 writes, each answered when the primary had it: {', '.join(f'{ms:.0f} ms' for ms in took_ms)}"
        )

    def _outage(self) -> None:
        self._console.print(f"\nkill -9 {self._chain.child.pid} (the primary); the next write:")
        self._chain.child.kill()
        took_ms = self._write()
        allowed_ms = FAILURES * INTERVAL_MS + 1_000
        self._console.print(
            f"  answered after {took_ms:,.0f} ms by a fallback; {FAILURES} checks every {INTERVAL_MS} ms and a second "
            f"are {allowed_ms:,} ms"
        )
        if took_ms > allowed_ms:
            raise CommandFailed(f"the fallback took the first write after {took_ms:.0f} ms; please report this")
        self._write_many("the validators")
        posted = self._client.post_blob(data_hex=b"hello world".hex())
        self._console.print(f"  and a blob: {posted.commitment}")
        self._show()

    def _worse(self) -> None:
        for child, _ in self._validators[:2]:
            child.kill()
        self._console.print("\nkill -9 of two validators, so three cannot sign:")
        self._seen("emergency", lambda: self._standing() == "emergency")
        self._write_many("the emergency server")
        self._show()

    def _recovery(self) -> None:
        self._console.print("\nthe primary comes back at the same port, and two validators with it:")
        pending = self._client.show_ledger().pending
        _start_chain(self._crew, self._node_secret, self._chain.port)
        for number, (_, url) in enumerate(self._validators[:2]):
            _start_witness(self._crew, "validator", number, int(re.findall(r":(\d+)", url)[-1]))
        began_s = time.monotonic()
        self._seen("healthy", lambda: self._standing() == "healthy")
        now = self._client.show_ledger()
        self._console.print(
            f"  {pending} pending blobs brought home in order, {now.reconciliation_count} reconciliation for "
            f"{now.failover_count} failover, {time.monotonic() - began_s:.1f} s after it began"
        )
        if (now.pending, now.stuck, now.failover_count, now.reconciliation_count) != (0, 0, 1, 1):
            raise CommandFailed(f"the ledger is not as promised: {now}; please report this")
        self._show()

    def _proof(self) -> None:
        there = {node.id for node in self._client.list_storage_nodes()}
        lost = [name for name in self._acknowledged if name not in there]
        verified = self._client.rebuild_state(source="primary")
        report = self._client.compare_layers()
        self._console.print(f"\n{len(self._acknowledged)} writes were acknowledged and {len(lost)} lost")
        self._console.print(
            f"the state rebuilt from the primary alone is {'the same' if verified.same else 'ANOTHER'}: "
            f"{verified.state_digest[:16]}…"
        )
        colour = "green" if report.is_consistent else "red"
        self._console.print(
            f"[{colour}]consistency: {report.items_verified} blobs compared byte for byte, "
            f"{report.inconsistencies_found} differ[/{colour}]"
        )
        for detail in report.details[:10]:
            self._console.print(f"  {detail}", markup=False)
        if lost or not verified.same or not report.is_consistent:
            raise CommandFailed("the primary does not hold what was acknowledged; please report this")

    def _write_many(self, whom: str) -> None:
        began_s = time.monotonic()
        for _ in range(WRITES):
            self._write()
        rate = WRITES / (time.monotonic() - began_s)
        self._console.print(f"  {WRITES} more writes, each answered when {whom} had it: {rate:,.0f} a second")

    def _write(self) -> float:
        """One write that was acknowledged; how long that took."""
        name = f"node-{len(self._acknowledged) + 1}"
        began_s = time.monotonic()
        self._client.register_storage_node(id=name, zone="a", addr="127.0.0.1:50051", capacity_gb=100)
        self._acknowledged.append(name)
        return (time.monotonic() - began_s) * 1_000

    def _standing(self) -> str | None:
        standing: str | None = self._client.show_ledger().da_state
        return standing

    def _seen(self, what: str, look: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + _SEEN_S
        while not look():
            if time.monotonic() > ends_s:
                raise CommandFailed(f"{what} was not seen in {_SEEN_S:.0f} s; availability is {self._standing()}")
            time.sleep(0.05)

    def _show(self) -> None:
        status, now = self._client.show_fallback_status(), self._client.show_ledger()
        self._console.print(
            f"  {status.current_status}: {status.fallback_reason or 'nothing is wrong'}; {now.pending} blobs pending"
        )
        self._console.print(layer_table(read_layers(self._client)))


def _start_chain(crew: Crew, secret: str, port: int = 0) -> Chain:
    child = crew.start(
        "celestia double",
        *("-m", "weft.testing.celestia", "--port", str(port), "--secret", secret),
        *("--block-ms", str(BLOCK_MS)),
        *("--file", str(crew.folder / "chain")),
    )
    line = child.line_with("listening on", _START_S)
    found = re.search(r"http://\S+:(\d+) (\S+)", line)
    if found is None:
        raise CommandFailed(f"the double did not say where it is: {line}")
    return Chain(child=child, port=int(found[1]), token=found[2])


def _start_witness(crew: Crew, kind: str, number: int, port: int = 0) -> tuple[Child, str]:
    """The process and the address it says it is known by."""
    name = f"{kind}-{number}"
    child = crew.start(
        name,
        *("-m", "weft.witness", kind, "--port", str(port), "--name", name),
        *("--data", str(crew.folder / name)),
    )
    return child, child.line_with("listening on", _START_S).rpartition(" ")[2]


def _start_coordinator(crew: Crew, chain: Chain, validators: list[str], emergency: str) -> str:
    settings = {
        "DA_RPC_URL": f"http://127.0.0.1:{chain.port}",
        "DA_NAMESPACE": NAMESPACE,
        "DA_AUTH_TOKEN": chain.token,
        "DA_NETWORK": "local",
        "DA_RETRY_COUNT": "0",
        "ENABLE_FALLBACK": "true",
        "FALLBACK_DA_TYPE": "quorum,emergency",
        "QUORUM_VALIDATORS": ",".join(validators),
        "EMERGENCY_DA_URL": emergency,
        "WEFT_DA_CHECK_INTERVAL_MS": str(INTERVAL_MS),
        "WEFT_DA_FAILURE_THRESHOLD": str(FAILURES),
    }
    return start_coordinator(crew, settings)
