"""Where a simulated log is kept beside its journal: three layers, the machines behind them, and what harms those.

The primary is a Celestia node or a witness, the secondary four validators, the emergency layer a witness. What a
coordinator is given are the real layers over the simulated network; the machines are real witnesses and the double.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from weft.ledger.archive import Archive
from weft.ledger.envelope import Publisher
from weft.ledger.layer import Layer
from weft.ledger.layers import CelestiaLayer, EmergencyLayer, QuorumLayer, RetryingLayer, ValidatorAddress
from weft.model.availability import AvailabilityPolicy, ReconcilePolicy, Role
from weft.model.namespace import parse_namespace
from weft.receipts import Domain, SigningKey
from weft.testing.keepers import ChainMachine, LayerHttp, WitnessMachine
from weft.testing.loop import SimulatedLoop
from weft.testing.network import Network
from weft.testing.process import Process

POLICY: Final = AvailabilityPolicy(
    interval_ms=1_000, reconcile=ReconcilePolicy(retry_delay_ms=200, max_retries=1_000_000)
)
"""Checks each second, and nothing is ever stuck: nobody is there to ask for another try."""
_VALIDATORS: Final = 4
_THRESHOLD: Final = 3
_LAYER_MS: Final = 5_000
_NAMESPACE: Final = parse_namespace("00" * 19 + "73696d756c6174656400")


class Places:
    """The machines of all layers, and the layers as one life of a coordinator has them."""

    def __init__(
        self,
        loop: SimulatedLoop,
        network: Network,
        note: Callable[[str], None],
        *,
        seed: str,
        directory: Path,
        secret: bytes,
        on_chain: bool,
    ) -> None:
        self.key = SigningKey.from_secret(secret, Domain.PUBLISHER)
        self.archives: list[Archive] = []
        self._network = network

        def witness(name: str, key: SigningKey | None = None) -> WitnessMachine:
            return WitnessMachine(loop, network, note, name=name, directory=directory / name, seed=seed, key=key)

        self.primary: ChainMachine | WitnessMachine = (
            ChainMachine(loop, network, note, seed=seed) if on_chain else witness("primary")
        )
        self.validators = [
            witness(f"validator-{number}", SigningKey(bytes([number + 1]) * 32, Domain.VALIDATOR))
            for number in range(_VALIDATORS)
        ]
        self.emergency = witness("emergency")

    @property
    def machines(self) -> list[ChainMachine | WitnessMachine]:
        """All of them."""
        return [self.primary, *self.validators, self.emergency]

    def start(self) -> None:
        """Start every machine."""
        for machine in self.machines:
            machine.start()

    def close(self) -> None:
        """End every machine."""
        for machine in self.machines:
            machine.kill()

    def relent(self) -> None:
        """Every machine runs, and is well."""
        for machine in self.machines:
            machine.mend()
            if machine.process is None:
                machine.start()
            else:
                machine.process.resume()

    def open(self, process: Process, directory: Path) -> Mapping[Role, Layer]:
        """The layers, for one life of a coordinator."""
        http, clock = LayerHttp(self._network, process), process.clock
        addresses = [ValidatorAddress(one.url, one.key.public) for one in self.validators if one.key is not None]
        return {
            Role.PRIMARY: self._open_primary(http, process, directory),
            Role.SECONDARY: QuorumLayer(
                http, clock, addresses, self.key.public, None, threshold_percent=67, timeout_ms=_LAYER_MS
            ),
            Role.EMERGENCY: EmergencyLayer(http, clock, self.emergency.url, None, timeout_ms=_LAYER_MS),
        }

    def keeps(self, commitment: str) -> bool:
        """Whether a layer keeps a blob, by its own meaning of it."""
        signers = sum(validator.keeps(commitment) for validator in self.validators)
        return self.primary.keeps(commitment) or signers >= _THRESHOLD or self.emergency.keeps(commitment)

    def errors(self) -> list[str]:
        """What a machine found on its disk that should not be so."""
        return [error for machine in self.machines for error in machine.errors]

    def draw(self, chance: random.Random) -> list[ChainMachine | WitnessMachine]:
        """The machines of one misfortune: mostly the primary's, sometimes enough validators, sometimes all."""
        drawn = chance.random()
        if drawn < 0.5:
            return [self.primary]
        if drawn < 0.75:
            return list(chance.sample(self.validators, chance.randint(1, _VALIDATORS)))
        if drawn < 0.9:
            return [self.emergency]
        return self.machines

    def _open_primary(self, http: LayerHttp, process: Process, directory: Path) -> Layer:
        if isinstance(self.primary, WitnessMachine):
            return EmergencyLayer(http, process.clock, self.primary.url, None, timeout_ms=_LAYER_MS)
        archive = Archive(directory / "celestia", layer="celestia")
        self.archives.append(archive)
        layer = CelestiaLayer(
            http,
            process.clock,
            archive,
            Publisher(self.key),
            rpc_url=self.primary.url,
            namespace=_NAMESPACE,
            token=self.primary.token,
            auth_header="Authorization",
            timeout_ms=_LAYER_MS,
        )
        return RetryingLayer(layer, process.clock, retry_count=2, retry_delay_ms=200, timeout_ms=_LAYER_MS)
