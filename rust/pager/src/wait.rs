//! How a fault thread sleeps: until a fault comes, somebody rings, or a while has passed.
//!
//! Several fault threads wait for one userfaultfd. Each has an epoll of its own that watches it exclusively, so that a
//! fault wakes one of them; which one follows the order in which they began to watch, the first that sleeps. One thread
//! that faults is therefore served by one fault thread, the others are its reserve.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

const FAULTS: u64 = 0;
const DOORBELL: u64 = 1;

/// Wakes one fault thread.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// One that has not been rung.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes the thread, now or when it next waits.
    pub fn ring(&self) {
        // Fails only when it has been rung 2^64 times without being heard.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn hear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// There may be a fault to read.
    pub fault: bool,
    /// Somebody rang.
    pub rung: bool,
}

/// What one fault thread waits with.
#[derive(Debug)]
pub struct Waiter {
    epoll: OwnedFd,
}

impl Waiter {
    /// Watches `faults` together with other threads, and `doorbell` alone.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new(faults: impl AsFd, doorbell: &Doorbell) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let exclusive = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&epoll, faults, epoll::EventData::new_u64(FAULTS), exclusive)?;
        epoll::add(&epoll, &doorbell.0, epoll::EventData::new_u64(DOORBELL), epoll::EventFlags::IN)?;
        Ok(Self { epoll })
    }

    /// Sleeps until there is a reason not to, or for `limit` at most.
    pub fn wait(&self, doorbell: &Doorbell, limit: Option<Duration>) -> Woken {
        let limit =
            limit.map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 2];
        let mut woken = Woken::default();
        // An interrupted wait is one that ended for no reason; the caller looks and waits again.
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, limit.as_ref()) else { return woken };
        for event in ready {
            let data = event.data;
            match data.u64() {
                FAULTS => woken.fault = true,
                _ => {
                    doorbell.hear();
                    woken.rung = true;
                }
            }
        }
        woken
    }
}
