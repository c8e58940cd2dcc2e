"""TLS under the data plane: what a process shows and insists on, and the certificates a cluster is given.

A process speaks TLS on every connection it makes or takes from the moment it is told to, and nothing else. Whoever
goes by another name than its certificate holds is refused, so that processes of a machine go by the machine's name, a
colon and their own.
"""

from weft import _native

__all__ = ["issue_certificate", "leave_tls", "make_authority", "prepare_tls", "tls_names"]


def prepare_tls(*, authority: bytes, certificate: bytes, key: bytes) -> tuple[str, ...]:
    """Speaks TLS from now on; the names the certificate holds, the machine's first.

    Raises Misconfigured naming the variable when the three do not belong together, or the certificate is not good now.
    """
    return tuple(_native.use_tls(authority=authority, certificate=certificate, key=key))


def leave_tls() -> None:
    """Speaks no TLS on what is made from now on; what was made goes on as it is."""
    _native.leave_tls()


def tls_names() -> tuple[str, ...] | None:
    """The names of the certificate in use, None where no TLS is spoken."""
    names = _native.tls_names()
    return None if names is None else tuple(names)


def make_authority(*, now_s: int, lasts_s: int) -> tuple[str, str]:
    """A new authority: its certificate, for everybody, and its key, for whoever signs. In PEM."""
    return _native.make_authority(now_s=now_s, lasts_s=lasts_s)


def issue_certificate(authority_key: str, names: tuple[str, ...], *, now_s: int, lasts_s: int) -> tuple[str, str]:
    """A certificate for a machine of these names, and its key. In PEM. Raises BadArgument."""
    return _native.issue_certificate(authority_key=authority_key, names=list(names), now_s=now_s, lasts_s=lasts_s)
