"""What journals and availability layers say."""

from weft.model.errors.tree import Failed, Invalid


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


class JournalTrimmed(JournalFailed):
    """The journal no longer holds what was asked for; a snapshot does. Facts: path, position, oldest."""

    code = "journal_trimmed"


class BatchTooLarge(JournalFailed):
    """One command became more events than the journal takes at once. Facts: path, size_bytes, limit_bytes."""

    code = "batch_too_large"


class SnapshotFailed(Failed):
    """A snapshot could not be written or read. Facts: path."""

    code = "snapshot_failed"


class SnapshotDamaged(SnapshotFailed):
    """A snapshot is not what was written, or not ours. Facts: position."""

    code = "snapshot_damaged"


class LayerFailed(Failed):
    """An availability layer could not do what was asked, and nothing of it happened. Facts: layer."""

    code = "DA_LAYER_FAILED"
    temporary = True


class LayerUnknown(LayerFailed):
    """An availability layer did not say whether a blob was kept; a scan settles it. Facts: layer, commitment."""

    code = "DA_OUTCOME_UNKNOWN"


class LayerRefused(LayerFailed):
    """An availability layer refuses, and would again: a permission, a setting, a blob too large. Facts: layer."""

    code = "DA_LAYER_REFUSED"
    temporary = False


class BlobTooLarge(LayerRefused):
    """An availability layer takes no blob of this size. Facts: layer, size_bytes, and limit_bytes where it is known."""

    code = "DA_BLOB_TOO_LARGE"


class BlobMissing(LayerFailed):
    """An availability layer holds no such blob. Facts: layer, commitment."""

    code = "DA_BLOB_NOT_FOUND"
    temporary = False


class BlobPruned(BlobMissing):
    """A blob is older than what an availability layer keeps; an archive may hold it.

    Facts: layer, height, and of a scan `after`, the cursor behind what is gone.
    """

    code = "DA_BLOB_PRUNED"


class BlobDamaged(LayerFailed):
    """What an availability layer gave back is not what was put. Facts: layer, commitment."""

    code = "DA_BLOB_DAMAGED"
    temporary = False


class BlobForeign(LayerFailed):
    """A blob in a place open to anybody that this cluster did not publish. Facts: reason."""

    code = "DA_BLOB_FOREIGN"
    temporary = False


class NoLayer(LayerFailed):
    """No availability layer can take a write now: each is unhealthy or none is configured."""

    code = "DA_UNAVAILABLE"


class NotAvailableYet(LayerFailed):
    """What was asked is committed, and no availability layer holds it yet. It will be put. Facts: position."""

    code = "DA_NOT_AVAILABLE_YET"


class PrimaryUnhealthy(LayerFailed):
    """Nothing can be reconciled while the primary layer is out. Facts: standing."""

    code = "DA_PRIMARY_UNHEALTHY"


class ReconciliationFailed(LayerFailed):
    """Reconciling ended before the first blob. Facts: report."""

    code = "reconciliation_failed"


class PendingFailed(LayerFailed):
    """The list of pending blobs could not be read or written. Facts: path."""

    code = "DA_PENDING_FAILED"


class BadHex(Invalid):
    """A field is not hexadecimal digits, or not as many as it should be. Facts: field."""

    code = "BAD_HEX"
