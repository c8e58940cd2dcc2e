"""TLS between machines: three files, named by three variables, all of them or none.

    WEFT_TLS_CA      the certificate of the cluster's authority, the same on every machine
    WEFT_TLS_CERT    this machine's certificate, signed by it
    WEFT_TLS_KEY     the key of that certificate, which nobody else may read

They are read once, when a process starts. `weft tls init` and `weft tls issue` make them; docs/tls.md is about them.
"""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from weft.model.errors import Misconfigured

VARIABLES: Final = ("WEFT_TLS_CA", "WEFT_TLS_CERT", "WEFT_TLS_KEY")
FILE_BYTES_MAX: Final = 1 << 20
"""A chain of certificates has a few kilobytes; a path to a disk image is a mistake."""


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the three files hold, in PEM. Whether they belong together is for the data plane to say."""

    authority: bytes
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "TlsSettings(...)"


def is_tls_set(env: Mapping[str, str]) -> bool:
    """Whether any of the variables says something: then TLS is wanted, if perhaps not rightly."""
    return any(env.get(variable, "").strip() for variable in VARIABLES)


def read_tls(env: Mapping[str, str]) -> TlsSettings | None:
    """What the variables name, None where none is set. Raises `Misconfigured` naming the one that is wrong."""
    if not is_tls_set(env):
        return None
    for variable in VARIABLES:
        if not env.get(variable, "").strip():
            raise Misconfigured(
                f"{variable} is not set, and TLS needs {', '.join(VARIABLES[:-1])} and {VARIABLES[-1]}; set it, or "
                "unset the others",
                variable=variable,
            )
    authority, certificate, key = (_read(env, variable) for variable in VARIABLES)
    return TlsSettings(authority=authority, certificate=certificate, key=key)


def _read(env: Mapping[str, str], variable: str) -> bytes:
    path = Path(env[variable].strip()).expanduser()
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_BYTES_MAX:
            raise Misconfigured(f"{variable}: {path} is no file in PEM", variable=variable)
        if variable == "WEFT_TLS_KEY" and stat.S_IMODE(found.st_mode) & 0o077:
            raise Misconfigured(f"{variable}: others can read {path}; run: chmod 600 {path}", variable=variable)
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{variable}: cannot read {path}: {error.strerror}", variable=variable) from error
