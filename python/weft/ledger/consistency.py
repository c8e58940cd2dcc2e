"""The consistency report: bytes compared, layer by layer, and every commitment that differs named.

What was once pending has to be in the primary and in the fallback that took it, with the same bytes. What is pending
has to be in its fallback, and is not in both places yet, which the report says. What cannot be read cannot be compared
and is no agreement. Counters are not asked.
"""

from collections.abc import Iterable, Sequence

import msgspec

from weft.ledger.layer import Commitment
from weft.ledger.pending import PendingList
from weft.ledger.router import Router, spell_failure
from weft.model.availability import PendingBlob, Role
from weft.model.errors import LayerFailed
from weft.model.policy import CONSISTENCY_BLOBS_MAX


class Consistency(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared and what differs, a sentence each that begins with the commitment."""

    verified: int
    details: tuple[str, ...]


Cuts = Iterable[Sequence[Commitment]]
"""The ways in which one batch may have been put, each of so many blobs: as it goes now, and as it went before."""


async def compare(router: Router, pending: PendingList, batches: Iterable[Cuts] = ()) -> Consistency:
    """Compare the newest of what fallbacks took with the primary, and see that `batches` are in the primary."""
    details: list[str] = []
    verified = 0
    for blob in await pending.read(0, CONSISTENCY_BLOBS_MAX):
        verified += 1
        details.append(await _describe_pending(router, blob))
    for name, source in await pending.settled(CONSISTENCY_BLOBS_MAX):
        verified += 1
        details += await _compare_one(router, Commitment(name), source)
    for cuts in batches:
        verified += 1
        details += await _look_for_batch(router, cuts)
    return Consistency(verified=verified, details=tuple(details))


async def _look_for_batch(router: Router, cuts: Cuts) -> list[str]:
    """What is wrong with a batch in the primary: nothing, when it is there in one of the ways it may have gone."""
    first: list[str] | None = None
    for cut in cuts:
        trouble = [line for commitment in cut for line in (await _look(router, Role.PRIMARY, commitment))[1]]
        if not trouble:
            return []
        first = trouble if first is None else first
    return first or []


async def _describe_pending(router: Router, blob: PendingBlob) -> str:
    _, trouble = await _look(router, blob.source, Commitment(blob.commitment))
    if trouble:
        return trouble[0]
    if blob.is_stuck:
        return f"{blob.commitment}: stuck in {blob.source.value}; {blob.last_error}"
    return f"{blob.commitment}: pending in {blob.source.value}, not in the primary yet"


async def _compare_one(router: Router, commitment: Commitment, source: Role) -> list[str]:
    here, trouble_here = await _look(router, Role.PRIMARY, commitment)
    there, trouble_there = await _look(router, source, commitment)
    if trouble_here or trouble_there:
        return trouble_here + trouble_there
    return [] if here == there else [f"{commitment}: primary and {source.value} hold different bytes"]


async def _look(router: Router, role: Role, commitment: Commitment) -> tuple[bytes, list[str]]:
    """The bytes a layer gives for a commitment, or what is wrong with it there."""
    if not router.has(role):
        return b"", [f"{commitment}: {role.value} is not configured any more"]
    try:
        return await router.get_from(role, commitment), []
    except LayerFailed as error:
        return b"", [f"{commitment}: {role.value} says {spell_failure(error)}"]
