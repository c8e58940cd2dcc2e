//! Readiness: epoll, and an eventfd to wake whoever waits on it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};

/// What a descriptor is watched for. Readiness is level-triggered: what is not consumed is reported again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Bytes to read, or the peer closed.
    pub readable: bool,
    /// Room to write.
    pub writable: bool,
}

impl Interest {
    /// Nothing but the end of the connection.
    pub const NONE: Self = Self { readable: false, writable: false };
    /// Reading only.
    pub const READ: Self = Self { readable: true, writable: false };
    /// Writing only: back-pressure, nothing is read while an answer waits to leave.
    pub const WRITE: Self = Self { readable: false, writable: true };

    fn flags(self) -> epoll::EventFlags {
        // An end of the connection is reported whatever is watched; the peer's half only when it is asked for.
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::RDHUP, !self.readable && !self.writable);
        flags.set(epoll::EventFlags::IN, self.readable);
        flags.set(epoll::EventFlags::OUT, self.writable);
        flags
    }
}

/// Many descriptors, one wait.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

/// Tokens that became ready; reused between waits.
pub struct Ready {
    events: Vec<epoll::Event>,
}

impl Ready {
    /// Room for `count` tokens a wait.
    pub fn with_capacity(count: usize) -> Self {
        Self { events: Vec::with_capacity(count) }
    }

    /// Forgets the last wait's tokens, so that none is taken for news twice.
    pub fn clear(&mut self) {
        self.events.clear();
    }

    /// The tokens of the last wait, each with whether its connection has ended, in whole or on the peer's side.
    pub fn endings(&self) -> impl Iterator<Item = (u64, bool)> + '_ {
        let ended = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        self.events.iter().map(move |event| {
            let (data, flags) = (event.data, event.flags);
            (data.u64(), flags.intersects(ended))
        })
    }

    /// The tokens of the last wait.
    pub fn tokens(&self) -> impl Iterator<Item = u64> + '_ {
        self.events.iter().map(|event| {
            let data = event.data;
            data.u64()
        })
    }
}

impl Poller {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Watches `descriptor` under `token`.
    pub fn add<Fd: AsFd>(&self, descriptor: Fd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what `descriptor` is watched for.
    pub fn change<Fd: AsFd>(&self, descriptor: Fd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, descriptor, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Stops watching `descriptor`.
    pub fn remove<Fd: AsFd>(&self, descriptor: Fd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, descriptor)?)
    }

    /// Waits until something is ready or `timeout` passed (`None`: for as long as it takes). Interruptions count as nothing
    /// ready.
    pub fn wait(&self, ready: &mut Ready, timeout: Option<Duration>) -> io::Result<()> {
        ready.events.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Poller {
    /// Readable when something that is watched is ready: a poller can be watched itself.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Waits until one descriptor is ready or `timeout` passed. Interruptions count as ready.
pub fn wait_for(descriptor: BorrowedFd<'_>, interest: Interest, timeout: Duration) -> io::Result<()> {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, interest.readable);
    flags.set(PollFlags::OUT, interest.writable);
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(&mut [PollFd::from_borrowed_fd(descriptor, flags)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A flag another thread raises to end a wait.
#[derive(Debug)]
pub struct Waker {
    eventfd: OwnedFd,
}

impl Waker {
    /// Lowered.
    pub fn new() -> io::Result<Self> {
        Ok(Self { eventfd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Raises it. A counter that is already at its limit is raised as well.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }

    /// Lowers it.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.eventfd, &mut count);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
