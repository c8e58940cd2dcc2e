"""Why a command that came over HTTP is there."""

from weft.coordinator.repeats import Cause
from weft.serve import Call


def cause_of(call: Call) -> Cause:
    """The cause of what a call asks for: repeatable when the caller chose its id."""
    return Cause(call.request_id, call.request_id_given)
