"""From settings to availability layers, by what each is for."""

from collections.abc import Mapping

from weft.config import EmergencySettings, LayerSettings, MockSettings, QuorumSettings, ValidatorSettings
from weft.coordinator.ports import Clock, Random
from weft.ledger.layer import Layer
from weft.ledger.layers import EmergencyLayer, HttpxHttp, MemoryLayer, QuorumLayer, ValidatorAddress
from weft.model.availability import Role
from weft.model.errors import InvalidField, Misconfigured, NoLayer
from weft.receipts import PublicKey

ALL = "layers"
"""What stands for every layer that is configured."""


def open_layers(settings: LayerSettings, clock: Clock, random: Random, publisher: PublicKey) -> dict[Role, Layer]:
    """The layers that are configured; none is asked anything yet. Empty when there is none."""
    layers: dict[Role, Layer] = {}
    http = HttpxHttp()
    if isinstance(settings.primary, MockSettings):
        layers[Role.PRIMARY] = MemoryLayer(clock, random)
    elif settings.primary is not None:
        raise Misconfigured("this version has no Celestia layer yet; set USE_MOCK_DA=true", variable="DA_RPC_URL")
    if settings.secondary is not None:
        layers[Role.SECONDARY] = _quorum(settings.secondary, http, clock, publisher)
    if settings.emergency is not None:
        layers[Role.EMERGENCY] = _emergency(settings.emergency, http, clock)
    return layers


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
