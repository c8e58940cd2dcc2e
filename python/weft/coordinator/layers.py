"""From settings to availability layers, by what each is for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from weft.config import (
    CelestiaSettings,
    EmergencySettings,
    LayerSettings,
    MockSettings,
    QuorumSettings,
    ValidatorSettings,
)
from weft.coordinator.ports import Clock, Random
from weft.ledger.archive import Archive
from weft.ledger.envelope import Publisher
from weft.ledger.layer import Layer
from weft.ledger.layers import (
    CelestiaLayer,
    EmergencyLayer,
    HttpxHttp,
    MemoryLayer,
    QuorumLayer,
    RetryingLayer,
    ValidatorAddress,
)
from weft.model.availability import Role
from weft.model.errors import InvalidField, NoLayer
from weft.model.policy import PROBE_MS_MAX
from weft.receipts import PublicKey, SigningKey

ARCHIVE: Final = "celestia"
"""The folder of what was put on the chain, in the data directory: nodes let go of blobs after some days."""
ALL = "layers"
"""What stands for every layer that is configured."""


def open_layers(
    settings: LayerSettings, clock: Clock, random: Random, key: SigningKey, directory: Path
) -> dict[Role, Layer]:
    """The layers that are configured; none is asked anything yet. Empty when there is none.

    A layer that needs an archive beside it has it in `directory`.
    """
    layers: dict[Role, Layer] = {}
    if settings == LayerSettings() or settings == LayerSettings(primary=MockSettings()):
        # Nobody is asked over a network; what that takes is neither imported nor made.
        return {Role.PRIMARY: MemoryLayer(clock, random)} if settings.primary is not None else {}
    http = HttpxHttp()
    if isinstance(settings.primary, MockSettings):
        layers[Role.PRIMARY] = MemoryLayer(clock, random)
    elif settings.primary is not None:
        layers[Role.PRIMARY] = _celestia(settings.primary, http, clock, key, directory)
    if settings.secondary is not None:
        layers[Role.SECONDARY] = _quorum(settings.secondary, http, clock, key.public)
    if settings.emergency is not None:
        layers[Role.EMERGENCY] = _emergency(settings.emergency, http, clock)
    return layers


async def check_layers(layers: Mapping[Role, Layer]) -> None:
    """See that what is configured can be, as far as layers answer. Raises `Misconfigured`, naming the variable."""
    for layer in layers.values():
        if isinstance(layer, QuorumLayer):
            await layer.check_members(PROBE_MS_MAX)


def choose_layers(layers: Mapping[Role, Layer], names: str) -> list[Layer]:
    """The layers somebody named, by what they are called or what they are for. Raises `InvalidField` and `NoLayer`."""
    if not layers:
        raise NoLayer("no availability layer is configured; the log is in the journal alone")
    if names == ALL:
        return list(layers.values())
    known = {layer.name: layer for layer in layers.values()} | {role.value: layer for role, layer in layers.items()}
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise InvalidField(f"from is journal, {ALL} or of {', '.join(sorted(known))}, not {unknown[0]!r}", field="from")
    return [known[name] for name in wanted]


def _celestia(settings: CelestiaSettings, http: HttpxHttp, clock: Clock, key: SigningKey, directory: Path) -> Layer:
    layer = CelestiaLayer(
        http,
        clock,
        Archive(directory / ARCHIVE, layer="celestia"),
        Publisher(key),
        rpc_url=settings.rpc_url,
        namespace=settings.namespace,
        token=settings.token,
        auth_header=settings.auth_header,
        timeout_ms=settings.timeout_ms,
        gas_price=settings.gas_price,
    )
    return RetryingLayer(
        layer,
        clock,
        retry_count=settings.retry_count,
        retry_delay_ms=settings.retry_delay_ms,
        timeout_ms=settings.timeout_ms,
    )


def _quorum(settings: QuorumSettings, http: HttpxHttp, clock: Clock, publisher: PublicKey) -> QuorumLayer:
    return QuorumLayer(
        http,
        clock,
        [_address(one) for one in settings.validators],
        publisher,
        settings.token,
        threshold_percent=settings.threshold_percent,
        timeout_ms=settings.timeout_ms,
    )


def _address(settings: ValidatorSettings) -> ValidatorAddress:
    return ValidatorAddress(settings.url, PublicKey(settings.public_key) if settings.public_key is not None else None)


def _emergency(settings: EmergencySettings, http: HttpxHttp, clock: Clock) -> EmergencyLayer:
    return EmergencyLayer(http, clock, settings.url, settings.token)
