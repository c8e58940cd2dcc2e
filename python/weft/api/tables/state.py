"""The state as a whole."""

from typing import Final

from weft.api.bodies import state
from weft.api.errors import Family
from weft.api.route import Route
from weft.model import errors

STATE: Final[tuple[Route, ...]] = (
    Route(
        operation="show_state",
        method="GET",
        path="/state",
        summary="Where this coordinator stands: position, log digest, state digest and counts.",
        family=Family.WEFT,
        reply=state.StateInfo,
    ),
    Route(
        operation="rebuild_state",
        method="POST",
        path="/state/rebuild",
        summary="Rebuild the state from the journal or from layers, beside the living one, and compare the two.",
        family=Family.WEFT,
        body=state.RebuildBody,
        reply=state.RebuildReport,
        errors=(
            errors.JournalDamaged,
            errors.JournalTrimmed,
            errors.JournalFailed,
            errors.LayerFailed,
            errors.NoLayer,
            errors.Unavailable,
        ),
    ),
)
