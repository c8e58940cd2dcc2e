//! What the kernel says: faults to be resolved, and changes of the address space to be heeded.
//!
//! Only these functions read the userfaultfd, and they hold the window alone while they do.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weft_paging::PAGE_BYTES;
use weft_paging::window::Window;
use weft_sys::uffd::Message;

use crate::lock::{Held, Shared};
use crate::lost::announce;
use crate::target::{Fault, PAGE, Target};

/// What a fault is given at least, however long it waited to be read: time enough for a home that is well. (One that is
/// known not to be is not asked again by a fault that has used its time; see [`crate::suspects`].)
const FAULT_GRACE: Duration = Duration::from_millis(250);

impl Target {
    /// The next fault to resolve; heeds the events before it. `None` when there is none.
    ///
    /// # Errors
    /// The userfaultfd cannot be read any more.
    pub fn next_fault(&self) -> io::Result<Option<Fault>> {
        if self.backlog_len.load(Ordering::Acquire) > 0 {
            let mut backlog = self.backlog.held();
            let fault = backlog.pop_front();
            self.backlog_len.store(backlog.len(), Ordering::Release);
            if fault.is_some() {
                return Ok(fault);
            }
        }
        let mut window = self.window.alone();
        loop {
            match self.uffd.next()? {
                None => return Ok(None),
                Some(message) => {
                    if let Some(fault) = self.heed(&mut window, message) {
                        return Ok(Some(fault));
                    }
                }
            }
        }
    }

    /// There was no fault to read just now.
    pub fn is_quiet(&self, now: Instant) {
        self.quiet_ns.store(now.saturating_duration_since(self.born).as_nanos() as u64, Ordering::Relaxed);
    }

    /// Reads messages until one was an event; faults that came before it are kept for later. `false` when there was no
    /// event: somebody else has read it.
    pub fn heed_event(&self) -> bool {
        let mut window = self.window.alone();
        let mut kept = false;
        let heeded = loop {
            let Ok(Some(message)) = self.uffd.next() else { break false };
            match self.heed(&mut window, message) {
                None => break true,
                Some(fault) => {
                    let mut backlog = self.backlog.held();
                    backlog.push_back(fault);
                    self.backlog_len.store(backlog.len(), Ordering::Release);
                    kept = true;
                }
            }
        };
        drop(window);
        if kept {
            // The other fault threads have nothing to read any more, and do not know of these.
            self.ring_all();
        }
        heeded
    }

    /// Does what an event asks; answers a fault.
    fn heed(&self, window: &mut Window, message: Message) -> Option<Fault> {
        match message {
            Message::Fault { address, write, thread } => {
                let Some(offset) = window.offset_at(address) else {
                    self.refuse(address);
                    return None;
                };
                let now = Instant::now();
                let quiet_at = self.born + Duration::from_nanos(self.quiet_ns.load(Ordering::Relaxed));
                let deadline = quiet_at + self.fault_deadline;
                let overdue = deadline <= now;
                let deadline = deadline.max(now + FAULT_GRACE.min(self.fault_deadline));
                return Some(Fault { page: offset / PAGE_BYTES, write, thread, since: now, deadline, overdue });
            }
            Message::Remove { start, end } => self.content_dropped(window, start, end),
            Message::Unmap { start, end } => {
                self.content_dropped(window, start, end);
                window.unmap(start, end);
                let _ = self.installer.wake(start, (end - start) as usize);
            }
            Message::Remap { from, to, len } => {
                self.content_dropped(window, to, to.saturating_add(len));
                window.remap(from, to, len);
                let _ = self.installer.wake(from, len as usize);
            }
            Message::Other(_) => {}
        }
        self.counters.events.add(1);
        None
    }

    /// The program gave up the content of a range. What was on its way for it is stale, what was written and not sent
    /// is not to be sent, and a page that was poisoned is an ordinary missing page.
    fn content_dropped(&self, window: &Window, start: u64, end: u64) {
        for piece in window.shown_in(start, end) {
            let (first, last) = (piece.offset, piece.offset + piece.len);
            self.in_flight.held().drop_range(first / PAGE_BYTES, last / PAGE_BYTES);
            self.lost.remove(first / PAGE_BYTES, last / PAGE_BYTES);
            self.unsent.held().remove(first, last);
        }
    }

    /// A touch of memory that is registered and no part of the window: `mremap` made a range longer than it was, or left
    /// the old one mapped. No byte of the region belongs there.
    fn refuse(&self, address: u64) {
        self.counters.faults_outside.add(1);
        let reason =
            format!("the address {address:#x} was added to the window by mremap and shows no part of the region");
        announce(self.lost.region(), self.pages * PAGE_BYTES, "none", "out_of_range", &reason);
        if self.installer.poison(address, PAGE).is_err() {
            let _ = self.installer.wake(address, PAGE);
        }
    }
}
