"""The trunk of the tree of errors: what every error is, and the kinds a caller tells apart."""

# ruff: noqa: N818 — errors name the situation, and the situation is not called "error".

from typing import Any, ClassVar


class WeftError(Exception):
    """What every error of Weft is. `facts` hold what the sentence is about, by name."""

    code: ClassVar[str] = "error"
    temporary: ClassVar[bool] = False

    def __init__(self, message: str, /, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, Any] = facts

    def __getattr__(self, name: str) -> Any:
        """Facts read as fields: `error.region`, `error.wanted_bytes`."""
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no fact called {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.facts))


class Rejected(WeftError):
    """The caller asked for something that cannot be; asking again changes nothing."""

    code = "rejected"


class Failed(WeftError):
    """The world said no: a machine, a disk or a deadline."""

    code = "failed"


class Broken(WeftError):
    """An invariant does not hold. Whoever raises it wants the process to stop."""

    code = "broken"


class NotFound(Rejected):
    """What was named does not exist."""

    code = "NOT_FOUND"


class Conflict(Rejected):
    """What was asked contradicts what is."""

    code = "CONFLICT"


class Gone(Rejected):
    """What was named was there and will not be again."""

    code = "GONE"


class Invalid(Rejected):
    """The request itself is wrong."""

    code = "INVALID"


class Unauthorized(Rejected):
    """No token, or none that is accepted here."""

    code = "UNAUTHORIZED"


class RefusedByPeer(Rejected):
    """Another machine understood the request and refused it."""

    code = "refused"


def _rebuild(kind: type[WeftError], message: str, facts: dict[str, Any]) -> WeftError:
    """Unpickle: facts are keywords, which the default protocol would drop."""
    return kind(message, **facts)
