"""Where an endpoint is reached, as bytes to be handed over by any channel.

Weft's own form says its version and the address family, so that it can be read in one way only:

    0 "WEP"   3 version u8   4 family u8 (4 or 6)   5 port u16 big-endian   7 the address (4 or 16 bytes), the device

The seed's older form (address, port, length, device) guesses the family from the length, and takes some IPv6 addresses
for IPv4. It is read here for the sake of its users, with the guess made where only one answer fits, and never written.
"""

import ipaddress
from typing import Final, Self

from msgspec import Struct

from weft.model.errors import BadArgument

_MAGIC: Final = b"WEP"
_VERSION: Final = 1
_FIXED_BYTES: Final = 7
DEVICE_BYTES_MAX: Final = 64


class Metadata(Struct, frozen=True, kw_only=True):
    """An address, a port, and the device behind it ("" for none: CPU memory)."""

    host: str
    port: int
    device: str = ""

    def encode(self) -> bytes:
        """As it is handed over. Raises `BadArgument` for what is no address."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError as error:
            raise BadArgument(f"{self.host!r} is no IP address; metadata carries addresses, not names") from error
        device = self.device.encode()
        if not 0 < self.port < 65_536 or len(device) > DEVICE_BYTES_MAX:
            raise BadArgument(f"port {self.port} or device {self.device!r} cannot be in metadata")
        head = _MAGIC + bytes([_VERSION, address.version]) + self.port.to_bytes(2, "big")
        return head + address.packed + device

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """What `encode` gave, here or in another process. Raises `BadArgument` for anything else."""
        if data[:3] != _MAGIC:
            return cls._decode_old(data)
        if len(data) < _FIXED_BYTES or data[3] != _VERSION:
            raise BadArgument(f"metadata of version {data[3] if len(data) > 3 else 'none'} cannot be read here")
        size = {4: 4, 6: 16}.get(data[4])
        if size is None or not _FIXED_BYTES + size <= len(data) <= _FIXED_BYTES + size + DEVICE_BYTES_MAX:
            raise BadArgument("metadata is cut short, too long, or of an address family that does not exist")
        address = ipaddress.ip_address(data[_FIXED_BYTES : _FIXED_BYTES + size])
        port = int.from_bytes(data[5:7], "big")
        return cls._checked(str(address), port, data[_FIXED_BYTES + size :])

    @classmethod
    def _decode_old(cls, data: bytes) -> Self:
        fitting = [size for size in (4, 16) if len(data) >= size + 3 and len(data) == size + 3 + data[size + 2]]
        if len(fitting) == 2:
            # Both readings fit. A device of sixteen bytes' difference is text in one of them only.
            fitting = [
                size for size in fitting if data[size + 3 :].isascii() and data[size + 3 :].decode().isprintable()
            ]
        if len(fitting) != 1:
            raise BadArgument(f"{len(data)} bytes are no metadata of an endpoint, or could be two; pass what it gave")
        size = fitting[0]
        address = ipaddress.ip_address(data[:size])
        return cls._checked(str(address), int.from_bytes(data[size : size + 2], "big"), data[size + 3 :])

    @classmethod
    def _checked(cls, host: str, port: int, device: bytes) -> Self:
        if port == 0:
            raise BadArgument("metadata names port 0, where nobody listens")
        try:
            return cls(host=host, port=port, device=device.decode())
        except UnicodeDecodeError as error:
            raise BadArgument("metadata names a device that is not text") from error
