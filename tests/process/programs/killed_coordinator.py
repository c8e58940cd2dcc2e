"""The coordinator's own `__main__`, with ports that end the process at a step: STEP COUNT, then its flags."""

import sys

from weft.coordinator import __main__ as process
from weft.coordinator import app
from weft.testing.failpoints import Failpoint, KilledFolder, KilledJournal

point = Failpoint(sys.argv[1], int(sys.argv[2]))
open_journal = process.open_journal


async def open_killed(place, directory):
    return KilledJournal(await open_journal(place, directory), point)


class Limits(app.Limits, frozen=True, kw_only=True):
    """A snapshot each twenty events, so that every step is soon passed."""

    snapshot_events: int = 20
    kept_batches: int = 5


process.open_journal = open_killed
process.SnapshotFolder = lambda directory, key: KilledFolder(directory, key, point)
process.Limits = Limits
sys.exit(process.main(sys.argv[3:]))
