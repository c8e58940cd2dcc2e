"""What a witness is started with. Its tokens are WEFT_TOKENS; beyond this machine it wants one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from weft.config.process import is_loopback, read_tokens
from weft.model.errors import Misconfigured

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class WitnessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where it listens and keeps its blobs, and the tokens it lets in; none lets in everybody on this machine."""

    host: str
    port: int
    directory: Path
    tokens: tuple[str, ...]
    name: str


def read_witness_settings(
    env: Mapping[str, str], *, host: str, port: int, directory: str, name: str
) -> WitnessSettings:
    """The settings of a witness. Raises `Misconfigured`."""
    tokens = read_tokens(env)
    if not is_loopback(host) and not tokens:
        raise Misconfigured(
            f"{host} can be reached from other machines, and anybody there could fill this disk; set WEFT_TOKENS "
            "first, or bind to 127.0.0.1",
            variable="WEFT_TOKENS",
        )
    if not 0 <= port <= 65_535:
        raise Misconfigured(f"--port is not a port: {port}", variable="--port")
    if _NAME.fullmatch(name) is None:
        raise Misconfigured("--name is 1 to 128 letters, digits, dots, dashes or underscores", variable="--name")
    return WitnessSettings(host=host, port=port, directory=Path(directory), tokens=tokens, name=name)
