"""How this process's data travels: by the variables of the environment, wherever it first needs to know."""

from collections.abc import Mapping

from weft import config
from weft.dataplane import prepare_tls


def speak_tls(env: Mapping[str, str]) -> tuple[str, ...] | None:
    """Speaks TLS from now on where the environment names certificates; the names they hold, else None.

    Asked again it reads them again, so that what connects later shows a certificate that was renewed meanwhile. Raises
    Misconfigured naming the variable.
    """
    settings = config.read_tls(env)
    if settings is None:
        return None
    return prepare_tls(authority=settings.authority, certificate=settings.certificate, key=settings.key)
