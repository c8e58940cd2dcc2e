"""Every number, with its unit, its bounds and the reason for its value.

The unit is the last word of the name. A number that a reader meets anywhere else in Weft is either one of these or a
fact of a format. `NUMBERS` lists them for the documentation and for the test that holds each inside its bounds.
"""

from typing import Final

import msgspec

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


class Number(msgspec.Struct, frozen=True, kw_only=True):
    """One choice: its value, what it may be changed to, and why it is what it is."""

    name: str
    value: int
    unit: str
    lowest: int
    highest: int
    because: str


NUMBERS: dict[str, Number] = {}


def _number(name: str, value: int, unit: str, lowest: int, highest: int, because: str) -> int:
    NUMBERS[name] = Number(name=name, value=value, unit=unit, lowest=lowest, highest=highest, because=because)
    return value


# Memory.
PAGE_BYTES = _number("PAGE_BYTES", 4 * KIB, "bytes", 4 * KIB, 4 * KIB, "the page of every machine Weft runs on")
STRIPE_BYTES = _number(
    "STRIPE_BYTES", 2 * MIB, "bytes", 2 * MIB, 2 * MIB, "a huge page, the unit in which pages are installed by moving"
)
PAYLOAD_BYTES_MAX = _number(
    "PAYLOAD_BYTES_MAX", 64 * MIB, "bytes", MIB, 64 * MIB, "what one message makes a peer set aside before it checks it"
)
RANGES_COUNT_MAX = _number(
    "RANGES_COUNT_MAX", 1024, "ranges", 1, 1024, "the list of ranges stays in 16 KiB and is checked in one pass"
)

# Deadlines of the data plane.
CONNECT_MS_MAX = _number("CONNECT_MS_MAX", 2_000, "ms", 1, 60_000, "a machine that is there answers in one round trip")
REQUEST_MS_MAX = _number("REQUEST_MS_MAX", 5_000, "ms", 1, 60_000, "longer than any pause of a machine that still runs")
FAULT_MS_MAX = _number("FAULT_MS_MAX", 5_000, "ms", 1, 60_000, "a touched page must end in bytes or in a signal")
TRANSFER_MS_BASE = _number("TRANSFER_MS_BASE", 30_000, "ms", 1, 600_000, "what a transfer of any size may take")
TRANSFER_BYTES_PER_S_MIN = _number(
    "TRANSFER_BYTES_PER_S_MIN", 10_000_000, "bytes/s", 1, 10**12, "the slowest link a transfer is still meant to cross"
)
ADVERT_MS = _number(
    "ADVERT_MS", 3_600_000, "ms", 1, 2**40, "how long a right to reach a buffer lasts when its owner does not say"
)
KEEP_ALIVE_MS = _number("KEEP_ALIVE_MS", 1_000, "ms", 100, 60_000, "an idle connection is asked once a second")
KEEP_ALIVE_COUNT_MAX = _number("KEEP_ALIVE_COUNT_MAX", 3, "probes", 1, 10, "three lost in a row is a lost peer")
DRAIN_MS_MAX = _number("DRAIN_MS_MAX", 10_000, "ms", 0, 600_000, "how long a stopping process finishes what it began")
SPIN_US_MAX = _number(
    "SPIN_US_MAX", 50, "us", 0, 1_000, "waking an idle core costs 35 us; a wait that ends sooner is cheaper spun"
)
WAYS_LOOK_MS = _number(
    "WAYS_LOOK_MS", 2_000, "ms", 100, 60_000, "how soon a way that broke is said, and tried again once it may be"
)
RDMA_LOOK_MS = _number(
    "RDMA_LOOK_MS", 30_000, "ms", 1_000, 3_600_000, "how often a process without a device looks whether there is one"
)
PORT_FIRST = _number("PORT_FIRST", 50_051, "port", 1, 65_535, "the endpoint seed's range begins here")
PORT_LAST = _number("PORT_LAST", 50_100, "port", 1, 65_535, "the endpoint seed's range ends here")

# What the control plane accepts.
BODY_BYTES_MAX = _number("BODY_BYTES_MAX", MIB, "bytes", KIB, 64 * MIB, "control messages are small; memory is not")
CONNECTIONS_MAX = _number(
    "CONNECTIONS_MAX", 8_192, "connections", 16, 10**6, "a beat and a request from each of thousands of nodes"
)
IDLE_S_MAX = _number(
    "IDLE_S_MAX", 75, "s", 1, 3_600, "longer than clients keep an idle connection, so that it is they who close it"
)
TRANSPORTS_MAX = _number(
    "TRANSPORTS_MAX", 8, "entries", 4, 64, "twice as many transports as there are, for nodes of a later version"
)
WAIT_MS_MAX = _number(
    "WAIT_MS_MAX", 30_000, "ms", 0, 60_000, "shorter than the minute after which proxies close a silent connection"
)
COUNT_MAX = _number(
    "COUNT_MAX", 2**53 - 1, "any", 1, 2**63 - 1, "the largest whole number that every reader of JSON keeps exactly"
)
TEXT_LENGTH_MAX = _number("TEXT_LENGTH_MAX", 256, "characters", 1, 4_096, "names and addresses; DNS allows 253")
ERROR_LENGTH_MAX = _number("ERROR_LENGTH_MAX", 1_024, "characters", 64, 16_384, "a sentence a machine reports")
REPORT_COUNT_MAX = _number(
    "REPORT_COUNT_MAX", 16_384, "entries", 1, 2**20, "extents, peers or counters in one beat; the body bound is near"
)

# The writer.
BATCH_COMMANDS_MAX = _number(
    "BATCH_COMMANDS_MAX",
    512,
    "commands",
    1,
    65_536,
    "beyond it a sync is shared enough and the first waits for the last",
)
BATCH_EVENTS_MAX = _number(
    "BATCH_EVENTS_MAX", 16_384, "events", 1, 10**6, "a batch takes no further command past it, so it stays a few MiB"
)
GATHER_MS_MAX = _number(
    "GATHER_MS_MAX",
    4,
    "ms",
    0,
    1_000,
    "how long a batch waits for as many as came together before, and never longer than their own batch took",
)
QUEUE_COMMANDS_MAX = _number(
    "QUEUE_COMMANDS_MAX",
    8_192,
    "commands",
    1,
    10**6,
    "about a second of work; more would be answered too late to matter",
)
REPEAT_WINDOW_COUNT = _number(
    "REPEAT_WINDOW_COUNT",
    8_192,
    "requests",
    1,
    10**6,
    "callers retry within seconds; this is minutes of named requests",
)
APPEND_ATTEMPTS_MAX = _number(
    "APPEND_ATTEMPTS_MAX",
    4,
    "attempts",
    1,
    100,
    "each loss means another writer won; losing four times is not bad luck",
)
REPLAY_BATCHES_MAX = _number(
    "REPLAY_BATCHES_MAX", 1_024, "batches", 1, 65_536, "read at once while rebuilding, so that memory stays bounded"
)

# Journals, terms and snapshots.
BATCH_BYTES_MAX = _number(
    "BATCH_BYTES_MAX", 64 * MIB, "bytes", MIB, GIB, "what one batch may take anywhere; an engine may allow less"
)
MESSAGE_SPARE_BYTES = _number(
    "MESSAGE_SPARE_BYTES", 4 * KIB, "bytes", 512, 64 * KIB, "headers count against the largest message of a NATS server"
)
JOURNAL_CONNECT_MS_MAX = _number(
    "JOURNAL_CONNECT_MS_MAX", 10_000, "ms", 100, 600_000, "an engine that was just started elects and listens in this"
)
JOURNAL_APPEND_MS_MAX = _number(
    "JOURNAL_APPEND_MS_MAX", 4_000, "ms", 100, 60_000, "ends before the request that waits for it does"
)
JOURNAL_TRY_MS = _number(
    "JOURNAL_TRY_MS", 1_000, "ms", 10, 60_000, "until an append without an answer is sent again under the same id"
)
JOURNAL_READ_BYTES_MAX = _number(
    "JOURNAL_READ_BYTES_MAX", 16 * MIB, "bytes", MIB, GIB, "what one question to an engine brings back at most"
)
TERM_PULSE_MS = _number(
    "TERM_PULSE_MS", 1_000, "ms", 10, 60_000, "how often a writer shows that it lives, beside the log and not in it"
)
TERM_LEASE_MS = _number(
    "TERM_LEASE_MS", 5_000, "ms", 100, 600_000, "five pulses may be lost before another coordinator takes the pen"
)
SNAPSHOT_EVENTS = _number(
    "SNAPSHOT_EVENTS", 100_000, "events", 100, 10**9, "replaying so many takes a quarter of a second"
)
SNAPSHOT_PIECE_BYTES = _number(
    "SNAPSHOT_PIECE_BYTES", 512 * KIB, "bytes", 64 * KIB, MIB, "every availability layer takes a blob of this size"
)
BATCH_PART_BYTES = _number(
    "BATCH_PART_BYTES",
    MIB,
    "bytes",
    64 * KIB,
    8 * MIB,
    "of a batch that no layer takes whole; what Celestia likes best",
)
REBUILD_FORKS_MAX = _number(
    "REBUILD_FORKS_MAX", 32, "readings", 1, 1_024, "a log that people gave up so often; layers are read once for each"
)
SNAPSHOTS_KEPT = _number("SNAPSHOTS_KEPT", 2, "snapshots", 1, 100, "one may be damaged; two are not damaged alike")
JOURNAL_KEPT_BATCHES = _number(
    "JOURNAL_KEPT_BATCHES",
    1_000_000,
    "batches",
    1,
    10**12,
    "what a journal keeps below its older snapshot: days for those who follow the log, about a gigabyte",
)

# Life of nodes, regions and attachments.
NODE_SILENT_MS = _number(
    "NODE_SILENT_MS",
    10_000,
    "ms",
    1_000,
    600_000,
    "a lender not heard for this long is given nothing and waited for by none",
)
NODE_LOST_MS = _number(
    "NODE_LOST_MS", 30_000, "ms", 1_000, 3_600_000, "the node seed's time-out, after which silence is a fact in the log"
)
STALE_CHECK_MS = _number(
    "STALE_CHECK_MS", 10_000, "ms", 100, 3_600_000, "the node seed's: how often silence is written down in the cloud"
)
NODE_PURGE_MS = _number(
    "NODE_PURGE_MS", 86_400_000, "ms", 60_000, 31_536_000_000, "a machine that was out for a day was not just restarted"
)
BRAKE_NODES_MIN = _number(
    "BRAKE_NODES_MIN", 3, "nodes", 2, 1_000, "two machines may well die together; three at once want a second look"
)
BRAKE_PERCENT = _number(
    "BRAKE_PERCENT", 50, "percent", 1, 100, "when most are silent, what they have in common is whoever listens"
)
PULSE_MS_MAX = _number(
    "PULSE_MS_MAX", 5_000, "ms", 500, 60_000, "a timer later than this was stopped, not busy, and could hear nobody"
)
PULSE_MS = _number(
    "PULSE_MS", 250, "ms", 10, 1_000, "how often a coordinator notes that it runs, to know later that it was stopped"
)
POOLS_MAX = _number(
    "POOLS_MAX", 256, "pools", 1, 65_536, "on one node; a machine has a few devices and engines on each"
)
GPUS_MAX = _number("GPUS_MAX", 256, "devices", 1, 65_536, "in one machine")
MODELS_MAX = _number(
    "MODELS_MAX", 1_024, "models", 1, 65_536, "in one pool; a beat with them all stays below its bound"
)
RETIRED_COUNT_MAX = _number(
    "RETIRED_COUNT_MAX", 16, "incarnations", 1, 1_024, "earlier lives of a node that are remembered so as to be refused"
)
LEFT_NODES_MAX = _number(
    "LEFT_NODES_MAX", 16, "nodes", 1, 1_024, "nodes that left with a copy of an object, remembered with the object"
)
DELETED_AWAITED_MAX = _number(
    "DELETED_AWAITED_MAX",
    65_536,
    "objects",
    16,
    10**7,
    "deleted while every holder had left the cluster, and remembered for when one is back; about 20 MiB of them",
)
SWEEP_MS = _number("SWEEP_MS", 1_000, "ms", 10, 60_000, "how often timers look; a tenth of the shortest silence")
REGION_LENDERS_MAX = _number(
    "REGION_LENDERS_MAX", 64, "nodes", 1, 1_024, "with all rooms unequal this is 2,080 extents, a layout of 300 KB"
)
REGION_NAMES_MAX = _number("REGION_NAMES_MAX", 65_536, "regions", 1, 10**6, "what the coordinator is meant to list")
RESERVE_MS_BASE = _number("RESERVE_MS_BASE", 60_000, "ms", 1_000, 3_600_000, "for lenders to hear of a plan and begin")
RESERVE_BYTES_PER_S_MIN = _number(
    "RESERVE_BYTES_PER_S_MIN", 500_000_000, "bytes/s", 1, 10**12, "the slowest machine still backs memory this fast"
)
ATTACH_MS_MAX = _number(
    "ATTACH_MS_MAX", 5_000, "ms", 1, 60_000, "a lender that lives has a beat waiting and answers it"
)
LEASE_MS = _number(
    "LEASE_MS", 3_600_000, "ms", 60_000, 86_400_000, "how long a vanished holder keeps a region from others"
)
LEASE_RENEW_MS = _number("LEASE_RENEW_MS", 600_000, "ms", 10_000, 3_600_000, "five renewals may be lost before a lapse")
ATTACHMENTS_MAX = _number("ATTACHMENTS_MAX", 4_096, "attachments", 1, 10**6, "readers of one region at a time")

# Placement.
RING_UNIT_GB = _number(
    "RING_UNIT_GB", 100, "GB", 1, 1_000_000, "the storage seed's ordinary node is one unit; at 1 GB it is 6,400 points"
)
RING_POINTS_PER_UNIT = _number(
    "RING_POINTS_PER_UNIT", 64, "points", 64, 64, "the storage seed's; a fact of every placement"
)
RING_POINTS_MAX = _number(
    "RING_POINTS_MAX", 8_192, "points", 64, 65_536, "one node's join hashes this often, which takes two milliseconds"
)
REPLICA_COUNT = _number("REPLICA_COUNT", 3, "replicas", 1, 64, "the storage seed's, when a caller does not say")
REPLICA_COUNT_MAX = _number(
    "REPLICA_COUNT_MAX", 1_024, "replicas", 1, 65_536, "an answer that names every node of a large cluster, and no more"
)
PLACEMENTS_MAX = _number(
    "PLACEMENTS_MAX", 65_536, "placements", 16, 10**6, "jobs under way at once; the oldest is forgotten first"
)
SESSION_MS = _number(
    "SESSION_MS", 600_000, "ms", 1_000, 86_400_000, "the node seed's: how long an idle session keeps its node"
)
SESSIONS_MAX = _number("SESSIONS_MAX", 65_536, "sessions", 16, 10**6, "sessions that were heard of in ten minutes")
POOL_DEVICES_MAX = _number("POOL_DEVICES_MAX", 256, "devices", 1, 4_096, "one machine's; the largest have some dozens")
WEIGHT_MAX: Final = 1e9
"""What a scheduler's weight may be at most. The largest figure a node may report times this, five of them added, is a
number still; without a bound scores become infinite, and their differences nothing at all."""
LATENCY_MS_MIN: Final = 0.1
"""What the scheduler takes for a latency below it. Without a floor the best node is the one whose clock rounds down."""

# Objects.
CHUNK_BYTES = _number(
    "CHUNK_BYTES",
    16 * MIB,
    "bytes",
    16 * MIB,
    16 * MIB,
    "what is staged, sent and verified at once; a fact of every store",
)
STAGING_SLOTS_MAX = _number(
    "STAGING_SLOTS_MAX", 4, "slots", 1, 64, "chunks a node keeps in memory for objects that come and go, 64 MiB in all"
)
STAGING_WAITING_MAX = _number(
    "STAGING_WAITING_MAX",
    256,
    "requests",
    1,
    65_536,
    "asked for while no slot is free; each waits no longer than a transfer may",
)
STAGING_IDLE_MS = _number(
    "STAGING_IDLE_MS",
    5_000,
    "ms",
    1_000,
    600_000,
    "a chunk crosses the slowest link in under two seconds; who is silent for longer gives its slot to the next",
)
STORE_SPARE_BYTES = _number(
    "STORE_SPARE_BYTES",
    256 * MIB,
    "bytes",
    0,
    2**50,
    "a disk that objects fill to the brim breaks everything else on it",
)
OBJECT_REPORTS_MAX = _number(
    "OBJECT_REPORTS_MAX",
    1_024,
    "objects",
    1,
    4_096,
    "what one beat says of objects, about 120 KB; the rest is in the next",
)
COPIES_AT_ONCE_MAX = _number(
    "COPIES_AT_ONCE_MAX",
    2,
    "copies",
    1,
    64,
    "healing a node does at a time, so that it has bandwidth left for its work",
)
COPIES_PER_NODE_MAX = _number(
    "COPIES_PER_NODE_MAX",
    16,
    "copies",
    1,
    1_024,
    "what a node is asked for ahead, so that it need not wait for the next beat",
)
READS_PER_NODE_MAX = _number(
    "READS_PER_NODE_MAX",
    32,
    "copies",
    1,
    1_024,
    "what others are sent to one node for ahead; its slots bound what it does",
)
DROPS_PER_NODE_MAX = _number(
    "DROPS_PER_NODE_MAX",
    64,
    "objects",
    1,
    4_096,
    "a removed file frees its room at once; a long list only delays the next",
)
DOUBTS_PER_NODE_MAX = _number(
    "DOUBTS_PER_NODE_MAX",
    1_024,
    "objects",
    1,
    65_536,
    "objects one node is asked to look at again; more are not doubted",
)
OBJECT_LIST_MAX = _number(
    "OBJECT_LIST_MAX", 1_000, "objects", 1, 65_536, "one page of the list; the next begins after its last"
)
COPY_AGAIN_MS = _number(
    "COPY_AGAIN_MS",
    2_000,
    "ms",
    10,
    600_000,
    "until a copy that failed is tried again: a peer that was busy is not by then",
)
SCRUB_BYTES_PER_S = _number(
    "SCRUB_BYTES_PER_S", 16 * MIB, "bytes/s", 1, 2**40, "a twentieth of a slow disk, and a terabyte within a day"
)
SCRUB_EVERY_MS = _number(
    "SCRUB_EVERY_MS", 600_000, "ms", 1, 2**40, "how long after one round the next begins; small stores would spin"
)

# Watching.
WATCH_BATCHES_MAX = _number(
    "WATCH_BATCHES_MAX", 256, "batches", 1, 65_536, "read at once for one watcher, and kept at hand for the others"
)
WATCH_QUIET_MS = _number(
    "WATCH_QUIET_MS",
    15_000,
    "ms",
    1_000,
    60_000,
    "how often a silent stream says that it lives; proxies allow a minute",
)
WATCH_SEND_MS_MAX = _number(
    "WATCH_SEND_MS_MAX", 30_000, "ms", 100, 600_000, "a watcher that takes nothing for so long has stopped reading"
)
WATCHERS_MAX = _number(
    "WATCHERS_MAX", 1_024, "watchers", 1, 65_536, "each is a connection and a task that wakes with every batch"
)

# Availability layers.
PROBE_MS_MAX = _number(
    "PROBE_MS_MAX", 800, "ms", 10, 60_000, "the check that tips the balance; with it an outage shows within a second"
)
AVAILABLE_MS_MAX = _number(
    "AVAILABLE_MS_MAX", 25_000, "ms", 100, 60_000, "an answer waits for a layer so long: two blocks of a slow chain"
)
PUT_AGAIN_MS = _number(
    "PUT_AGAIN_MS", 250, "ms", 10, 60_000, "between two tries of a put; a layer that stumbled has often caught itself"
)
PUT_MS_MAX = _number(
    "PUT_MS_MAX", 150_000, "ms", 1_000, 3_600_000, "one put with all the retries of the slowest layer; then it hangs"
)
SHIPPED_AHEAD_BATCHES_MAX = _number(
    "SHIPPED_AHEAD_BATCHES_MAX",
    2,
    "batches",
    1,
    1_024,
    "committed and not yet available: one on its way, one behind it; more would make batches smaller and waits longer",
)
SHIPPED_NOTE_BATCHES = _number(
    "SHIPPED_NOTE_BATCHES",
    64,
    "batches",
    1,
    65_536,
    "how often it is noted how far the primary is; a restart looks so many batches up again",
)
HOME_NOTE_MS = _number(
    "HOME_NOTE_MS",
    10_000,
    "ms",
    100,
    3_600_000,
    "how often a shared journal is told how far the primary is; far less than the days after which a chain prunes",
)
CONSISTENCY_BATCHES_MAX = _number(
    "CONSISTENCY_BATCHES_MAX", 256, "batches", 1, 65_536, "of the log's end, looked up in the primary for one report"
)
BLOBS_AT_ONCE_MAX = _number(
    "BLOBS_AT_ONCE_MAX", 32, "blobs", 1, 1_024, "posts on their way to a layer; each is held in memory, 64 MiB in all"
)
ALIASES_MAX = _number(
    "ALIASES_MAX", 16_384, "commitments", 16, 10**6, "whose layer is remembered; any other is looked for in each"
)
SETTLED_KEPT_MAX = _number(
    "SETTLED_KEPT_MAX", 10_000, "blobs", 16, 10**6, "once pending; the consistency report compares them on both sides"
)
CONSISTENCY_BLOBS_MAX = _number(
    "CONSISTENCY_BLOBS_MAX", 1_000, "blobs", 1, 65_536, "compared in one report, newest first"
)
PENDING_PAGE_MAX = _number(
    "PENDING_PAGE_MAX",
    1_000,
    "blobs",
    1,
    65_536,
    "pending blobs in one answer, the oldest first; a count says how many",
)
RECONCILE_BACKOFF_MS_MAX = _number(
    "RECONCILE_BACKOFF_MS_MAX", 60_000, "ms", 100, 3_600_000, "the longest pause between two tries to reconcile"
)
RECONCILE_SETTLE_MS = _number(
    "RECONCILE_SETTLE_MS", 500, "ms", 0, 60_000, "what came home is noted so often, or once a batch; it is a sync"
)
RECONCILE_ERRORS_MAX = _number(
    "RECONCILE_ERRORS_MAX", 100, "sentences", 1, 10_000, "of one report; the list itself has each blob's last"
)
RECONCILE_PARALLEL_MAX = _number(
    "RECONCILE_PARALLEL_MAX", 8, "blobs", 1, 256, "of one batch on their way to the primary at once"
)
FALLBACK_PUT_FAILURES_MAX = _number(
    "FALLBACK_PUT_FAILURES_MAX", 3, "puts", 1, 1_000, "in a row, and a fallback that says it is well is not believed"
)
LAYER_BLOB_BYTES_MAX = _number(
    "LAYER_BLOB_BYTES_MAX",
    2 * MIB,
    "bytes",
    KIB,
    4 * MIB,
    "the storage seed's; one number for every layer, or a fallback would take what the primary refuses for ever",
)
LAYER_PROBE_MS_MAX = _number(
    "LAYER_PROBE_MS_MAX", 2_000, "ms", 10, 60_000, "less than half the seed's interval between two looks at a layer"
)
LAYER_MS_MAX = _number(
    "LAYER_MS_MAX", 10_000, "ms", 10, 600_000, "what an emergency server or validators may take to send two megabytes"
)
LAYER_SLOW_MS = _number(
    "LAYER_SLOW_MS", 500, "ms", 1, 60_000, "the storage seed's mock calls itself degraded past this"
)
LAYER_SCAN_BLOBS_MAX = _number(
    "LAYER_SCAN_BLOBS_MAX", 256, "blobs", 1, 4_096, "what one scan gives back, half a gigabyte at the very worst"
)
LAYER_LIST_MAX = _number(
    "LAYER_LIST_MAX", 1_000, "blobs", 1, 65_536, "one page of a server's list, about 150 KB; the next begins after it"
)
QUORUM_MIN = _number("QUORUM_MIN", 3, "validators", 1, 64, "the storage seed's: fewer that agree are no quorum")
QUORUM_STRAGGLERS_MAX = _number(
    "QUORUM_STRAGGLERS_MAX",
    64,
    "requests",
    0,
    1_024,
    "puts that were not waited for, each with its blob",
)
CELESTIA_POLL_MS = _number("CELESTIA_POLL_MS", 500, "ms", 10, 60_000, "a fifth of a block, which is waited for")
CELESTIA_LANDING_BLOCKS = _number(
    "CELESTIA_LANDING_BLOCKS", 2, "blocks", 1, 64, "in which a transaction lands if it was taken; later is rare"
)
CELESTIA_SLOW_MS = _number("CELESTIA_SLOW_MS", 1_000, "ms", 1, 60_000, "the storage seed's: a head that takes longer")
CELESTIA_STUCK_MS = _number(
    "CELESTIA_STUCK_MS", 60_000, "ms", 1, 3_600_000, "two puts that time out, or ten blocks: it includes none of ours"
)
CELESTIA_HEIGHTS_AT_ONCE = _number(
    "CELESTIA_HEIGHTS_AT_ONCE",
    16,
    "heights",
    1,
    256,
    "in one request; a week of blocks is some thousand of them",
)
CELESTIA_SCAN_HEIGHTS_MAX = _number(
    "CELESTIA_SCAN_HEIGHTS_MAX", 1_024, "heights", 1, 65_536, "read in one scan, which must end in its time"
)
CELESTIA_ANSWER_BYTES_MAX = _number(
    "CELESTIA_ANSWER_BYTES_MAX", 64 * MIB, "bytes", MIB, GIB, "more than a block's whole namespace, as base64 in JSON"
)
CELESTIA_GROUP_BYTES_MAX = _number(
    "CELESTIA_GROUP_BYTES_MAX", 4 * MIB, "bytes", MIB, 7 * MIB, "half of what a transaction may have"
)
CELESTIA_BLOB_BYTES_MIN = _number(
    "CELESTIA_BLOB_BYTES_MIN", 64 * KIB, "bytes", 4 * KIB, MIB, "a node that takes less than this is no use to anybody"
)
CELESTIA_INLINE_BYTES_MAX = _number(
    "CELESTIA_INLINE_BYTES_MAX",
    64 * KIB,
    "bytes",
    KIB,
    MIB,
    "the share commitment of more is computed by a thread; of this much it takes a third of a millisecond",
)
CELESTIA_GROUP_BLOBS_MAX = _number(
    "CELESTIA_GROUP_BLOBS_MAX", 64, "blobs", 1, 256, "in one transaction, each with its gas"
)
CELESTIA_WAITING_MAX = _number(
    "CELESTIA_WAITING_MAX",
    256,
    "blobs",
    1,
    4_096,
    "before whom others are submitted; four groups are four blocks",
)
WITNESS_WAITING_MAX = _number(
    "WITNESS_WAITING_MAX",
    64,
    "blobs",
    1,
    1_024,
    "put and not yet on the disk, 128 MB at the very worst",
)
LAYER_CONNECTIONS_MAX = _number(
    "LAYER_CONNECTIONS_MAX", 64, "connections", 1, 1_024, "a put to each of some dozen validators, and reads beside it"
)

# Where things are unless somebody says otherwise.
COORDINATOR_PORT = _number("COORDINATOR_PORT", 8_080, "port", 1, 65_535, "the node and storage seeds' port")
COORDINATOR_HOST: Final = "127.0.0.1"


def transfer_ms_max(size_bytes: int) -> int:
    """The deadline of a transfer: a base, and the time its size takes on the slowest link it is meant for."""
    return TRANSFER_MS_BASE + size_bytes * 1_000 // TRANSFER_BYTES_PER_S_MIN


def reserve_ms_max(size_bytes: int) -> int:
    """How long lenders may take to back a region of this size before it counts as failed."""
    return RESERVE_MS_BASE + size_bytes * 1_000 // RESERVE_BYTES_PER_S_MIN


class LedgerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that replaying a log depends on. They are written into its first event and never change after."""

    page_bytes: int = PAGE_BYTES
    stripe_bytes: int = STRIPE_BYTES
    retired_count_max: int = RETIRED_COUNT_MAX
    ring_unit_gb: int = RING_UNIT_GB
    left_nodes_max: int = LEFT_NODES_MAX
    deleted_awaited_max: int = DELETED_AWAITED_MAX
