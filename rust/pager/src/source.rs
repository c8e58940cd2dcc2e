//! Where pages come from and go home to: the pager's ports, written from its side.
//!
//! The pager asks for runs of pages and sends ranges back; who the lenders are, how they are reached and how a lost
//! connection is mended lies behind these traits. Offsets and page numbers count in the region, never in addresses.
//!
//! What an implementation promises, and the pager rests on:
//! * every wait ends by the deadline it was given, with an error if need be;
//! * bytes handed over are the home's bytes: a copy that was lost is an error, never zeros;
//! * a channel belongs to one thread; opening one may block, using one allocates nothing once it is warm.

use std::fmt;
use std::time::Instant;

use weft_sys::memory::Span;

/// Most pages that one request may ask for: one bit each in [`ReplyHead::zero_map`].
pub const RUN_PAGES_MAX: u32 = 64;

/// Why a home did not give or take bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    /// The node that was asked.
    pub node: String,
    /// A stable name for programs, from the same list that every native error uses ("timed_out", "extent_lost", …).
    pub code: &'static str,
    /// What happened, as the end of a sentence.
    pub detail: String,
    /// Whether asking again later may help.
    pub temporary: bool,
}

impl fmt::Display for FetchError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "node {}: {} ({})", self.node, self.detail, self.code)
    }
}

impl std::error::Error for FetchError {}

/// How a reply begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// Bit `i` set: page `i` of the request is zero and brings no bytes.
    pub zero_map: u64,
    /// Payload bytes of the whole reply: the pages that are not zero, in order.
    pub bytes: usize,
    /// Payload bytes that are already at the head of the span given to [`PageChannel::begin`].
    pub filled: usize,
}

/// The homes of a window's pages.
pub trait PageSource: Send + Sync {
    /// A channel of its own for one thread. It may connect now or when first used.
    ///
    /// # Errors
    /// The home that could not be reached, when connecting now.
    fn channel(&self) -> Result<Box<dyn PageChannel>, FetchError>;

    /// The node that answers for `page`, for messages to people.
    fn home(&self, page: u64) -> &str;

    /// How many pages from `page` on one request may cover: the same contiguous stretch of one extent, at least 1 and
    /// at most [`RUN_PAGES_MAX`].
    fn run_at(&self, page: u64) -> u32;
}

/// One thread's way to the homes. Requests are posted, and complete in the order of posting.
///
/// Every request that was posted is completed exactly once: by [`begin`](Self::begin) answering `Ok` and
/// [`fill`](Self::fill) reaching the reply's last byte, or by either of them answering `Err`. An error ends the oldest
/// request alone; those posted after it stay outstanding. The channel reconnects and asks again by itself for as long
/// as the deadline allows, so an error is the last word.
pub trait PageChannel: Send {
    /// Asks for `count` pages from `page` on, a run that [`PageSource::run_at`] allows. Does not wait for the reply.
    ///
    /// # Errors
    /// The request was not posted and will not complete.
    fn post(&mut self, page: u64, count: u32, deadline: Instant) -> Result<(), FetchError>;

    /// Waits for the head of the oldest reply, and receives with it what payload fits `into` and is there (one
    /// `recvmsg` where all goes well). `into` is as long as the request at least; bytes of a later reply never land in
    /// it beyond [`ReplyHead::filled`].
    ///
    /// # Errors
    /// The oldest request failed and is no longer outstanding.
    fn begin(&mut self, into: Span, deadline: Instant) -> Result<ReplyHead, FetchError>;

    /// Waits until at least `at_least` payload bytes of the reply that was begun are in `into`, which starts where the
    /// payload starts; more are taken if they are there. Answers how many are there now: `filled` grown.
    ///
    /// # Errors
    /// The reply broke off; the request is no longer outstanding.
    fn fill(&mut self, into: Span, filled: usize, at_least: usize, deadline: Instant) -> Result<usize, FetchError>;

    /// Requests posted and not completed, the one that is begun and not filled included.
    fn outstanding(&self) -> usize;
}

/// The way home for pages that were written.
pub trait PageSink: Send {
    /// Writes each span to its region offset, pipelined over the homes. A span covers whole pages and may be written by
    /// others while it is sent; it lies in one stretch of one extent or not, as it comes.
    ///
    /// # Errors
    /// At least one write was not acknowledged by the deadline; the caller keeps all of them as not written.
    fn write(&mut self, writes: &[(u64, Span)], deadline: Instant) -> Result<(), FetchError>;
}
