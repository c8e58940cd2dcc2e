//! Where finished work is told.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use weft_sys::event::{Interest, Poller, Ready};

use super::device::{Device, make_nonblocking};
use super::layout::*;
use crate::{Status, VerbsError};

/// Completions taken by one call.
const BATCH: usize = 16;

/// One piece of work that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As it was posted.
    pub id: u64,
    /// How it ended.
    pub status: Status,
    /// Bytes it moved; of a failed one nothing is known.
    pub bytes: u32,
    /// The queue pair it was on.
    pub queue_pair: u32,
}

/// A completion queue with a descriptor to sleep on.
pub struct CompletionQueue {
    device: Arc<Device>,
    channel: *mut ibv_comp_channel,
    pub(super) cq: *mut ibv_cq,
    poller: Poller,
}

// SAFETY: the library's calls on queues and channels are thread safe, and ours hold no state between calls.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue with room for `entries` completions. More work outstanding than that would break it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(device: &Arc<Device>, entries: u32) -> Result<Arc<Self>, VerbsError> {
        let table = &device.library.table;
        let poller = Poller::new().map_err(|cause| VerbsError::Call { doing: "making a poller", cause })?;
        // SAFETY: the context is open.
        let channel = unsafe { (table.create_comp_channel)(device.context) };
        if channel.is_null() {
            return Err(VerbsError::last("making a completion channel"));
        }
        let entries = i32::try_from(entries).unwrap_or(i32::MAX);
        // SAFETY: context and channel are live; no context pointer is kept in it.
        let cq = unsafe { (table.create_cq)(device.context, entries, std::ptr::null_mut(), channel, 0) };
        if cq.is_null() {
            let error = VerbsError::last("making a completion queue");
            // SAFETY: just made, used by nobody.
            unsafe { (table.destroy_comp_channel)(channel) };
            return Err(error);
        }
        let made = Self { device: Arc::clone(device), channel, cq, poller };
        // SAFETY: the channel lives as long as `made`.
        make_nonblocking(unsafe { (*made.channel).fd })?;
        made.poller
            .add(made.as_fd(), 0, Interest::READ)
            .map_err(|cause| VerbsError::Call { doing: "watching a completion channel", cause })?;
        Ok(Arc::new(made))
    }

    /// Appends what has finished since the last call; waits for nothing.
    ///
    /// # Errors
    /// `Call` when the queue itself is broken, as after its device was removed.
    pub fn poll(&self, into: &mut Vec<Completion>) -> Result<(), VerbsError> {
        let mut entries = [ibv_wc::default(); BATCH];
        loop {
            // SAFETY: the queue is live, its context's table was filled in by the provider, and the entries are live.
            let found = unsafe {
                let poll = (*(*self.cq).context).ops.poll_cq.expect("providers fill in poll_cq");
                poll(self.cq, i32::try_from(BATCH).expect("small"), entries.as_mut_ptr())
            };
            let Ok(found) = usize::try_from(found) else {
                return Err(VerbsError::returned("polling a completion queue", found));
            };
            into.extend(entries[..found].iter().map(|entry| Completion {
                id: entry.wr_id,
                status: Status::from_number(entry.status),
                bytes: entry.byte_len,
                queue_pair: entry.qp_num,
            }));
            if found < BATCH {
                return Ok(());
            }
        }
    }

    /// Asks for the descriptor to become readable at the next completion. What finished before is not told again, so
    /// poll once more before sleeping.
    ///
    /// # Errors
    /// What the provider says.
    pub fn arm(&self) -> Result<(), VerbsError> {
        // SAFETY: as in `poll`.
        let rc = unsafe {
            let notify = (*(*self.cq).context).ops.req_notify_cq.expect("providers fill in req_notify_cq");
            notify(self.cq, 0)
        };
        if rc == 0 { Ok(()) } else { Err(VerbsError::returned("asking to be told of completions", rc)) }
    }

    /// Sleeps until a completion is told or `timeout` passed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sleep(&self, timeout: Duration) -> Result<(), VerbsError> {
        let mut ready = Ready::with_capacity(1);
        self.poller
            .wait(&mut ready, Some(timeout))
            .map_err(|cause| VerbsError::Call { doing: "waiting for completions", cause })?;
        self.take_tellings();
        Ok(())
    }

    /// Takes what the channel told, so that its descriptor rests. Unacknowledged tellings would keep the queue alive.
    pub fn take_tellings(&self) {
        let mut told = 0;
        loop {
            let (mut cq, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the channel is live and its descriptor non-blocking.
            let rc = unsafe { (self.device.library.table.get_cq_event)(self.channel, &raw mut cq, &raw mut context) };
            if rc != 0 {
                break;
            }
            told += 1;
        }
        if told > 0 {
            // SAFETY: this queue is the channel's only one.
            unsafe { (self.device.library.table.ack_cq_events)(self.cq, told) };
        }
    }
}

impl AsFd for CompletionQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel and its descriptor live as long as this object.
        unsafe { BorrowedFd::borrow_raw((*self.channel).fd) }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.take_tellings();
        let table = &self.device.library.table;
        // SAFETY: made by us; queue pairs hold this object and so are gone. The queue goes before its channel.
        unsafe {
            (table.destroy_cq)(self.cq);
            (table.destroy_comp_channel)(self.channel);
        }
    }
}
