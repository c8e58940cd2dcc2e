"""The window in which a repeated request gets its first answer.

A caller that lost an answer sends the request again under the same `Weft-Request-Id`. Its cause is the id and the
digest of what is asked, so an id that is reused for something else is not mistaken for a repeat. The cause stands in
the log, so the window is there again after a restart: a request that was committed and never answered is answered by
the process that follows.

Known weakness: a caller that waits for longer than the window is refused like a stranger (the node it registered
exists already), which is what would have happened without any window.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from weft.model.batch import Batch
from weft.model.canonical import canonical_bytes, log_digest
from weft.model.commands import Command
from weft.model.events import Event
from weft.model.ids import Position, RequestId

_MARK = "~"
_DIGITS = 16


class Cause(NamedTuple):
    """Why a command is there. `named` says that the caller chose the id and may repeat it."""

    request_id: RequestId
    named: bool = False


class Answer(NamedTuple):
    """What became of a command: the events it was, and the position at which they are in the log."""

    position: Position
    events: tuple[Event, ...]


def spell_cause(cause: Cause, command: Command) -> str:
    """The cause as the log holds it."""
    if not cause.named:
        return cause.request_id
    return f"{cause.request_id}{_MARK}{log_digest(canonical_bytes(command)).hex()[:_DIGITS]}"


class RepeatWindow:
    """The answers of the last so many named requests, oldest first."""

    def __init__(self, count_max: int) -> None:
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._count_max = count_max

    def find(self, cause: str) -> Answer | None:
        """The answer a cause was given, if it is remembered."""
        return self._answers.get(cause)

    def items(self) -> list[tuple[str, Answer]]:
        """Every cause that is remembered with its answer, oldest first."""
        return list(self._answers.items())

    def remember(self, cause: str, answer: Answer) -> None:
        """Keep an answer, and let the oldest go."""
        self._answers[cause] = answer
        if len(self._answers) > self._count_max:
            self._answers.popitem(last=False)

    def remember_batch(self, batch: Batch) -> None:
        """Keep what a batch read back from the log says of named requests."""
        events: dict[str, list[Event]] = {}
        for entry in batch.entries:
            if _MARK in entry.cause:
                events.setdefault(entry.cause, []).append(entry.event)
        self._keep(batch.position, events.items())

    def _keep(self, position: Position, events: Iterable[tuple[str, list[Event]]]) -> None:
        for cause, caused in events:
            self.remember(cause, Answer(position, tuple(caused)))
