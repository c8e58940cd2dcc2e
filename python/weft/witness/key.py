"""A validator's key: made when it first starts, kept in a file only its user can read, and the same ever after."""

import os
import stat
from pathlib import Path
from typing import Final

from weft.model.errors import Misconfigured
from weft.receipts import SEED_BYTES, Domain, SigningKey
from weft.witness.ports import Random

FILE_NAME: Final = "validator.key"


def open_key(directory: Path, random: Random) -> SigningKey:
    """The key in a directory, made if there is none. One process at a time has the directory, so none is made twice."""
    path = directory / FILE_NAME
    try:
        try:
            mode, text = path.stat().st_mode, path.read_text().strip()
        except FileNotFoundError:
            text = random.draw(SEED_BYTES).hex()
            _write(path, text)
            mode = stat.S_IRUSR
    except OSError as error:
        raise Misconfigured(f"cannot use {path}: {error.strerror}", variable="--data") from error
    if stat.S_IMODE(mode) & 0o077:
        raise Misconfigured(f"others can read {path}; run: chmod 600 {path}", variable="--data")
    try:
        return SigningKey(bytes.fromhex(text), Domain.VALIDATOR)
    except ValueError as error:
        raise Misconfigured(f"{path} holds no key; restore it from a copy", variable="--data") from error


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a validator with half a key would come back as another."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
