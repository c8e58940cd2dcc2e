"""What journals and availability layers say."""

from weft.model.errors.tree import Failed


class JournalFailed(Failed):
    """The journal could not be read or written. Facts: path."""

    code = "journal_failed"


class JournalLocked(JournalFailed):
    """Another process writes this journal. Facts: path, pid."""

    code = "journal_locked"


class PositionTaken(JournalFailed):
    """Another batch stands where this one was to go. Facts: position."""

    code = "position_taken"
    temporary = True


class JournalDamaged(JournalFailed):
    """What the journal returned is not what was appended. Facts: path, position."""

    code = "journal_damaged"
