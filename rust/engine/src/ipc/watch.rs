//! Looks after what is mapped of neighbours' memory, so that idle lanes hold nothing they have no right to.
//!
//! A lane notices by itself, at its next read, that a buffer was taken back. But a lane may be idle for ever, and memory
//! that is mapped here stays the machine's, whatever its owner does. So one thread of an endpoint looks at the gates and
//! ends of what is mapped, a few times a second and only while anything is; and it hears at once when a neighbour's
//! connection ends. Before anything was mapped there is no thread.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use weft_sys::event::{Interest, Poller, Ready, Waker};

use crate::ipc::near::Near;

/// How often gates and ends are looked at while anything is mapped: no mapping outlives its right by more.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
const TOKEN_WAKER: u64 = 0;
const TOKEN_FIRST: u64 = 1;

#[derive(Default)]
struct State {
    neighbours: HashMap<u64, Weak<Near>>,
    token_next: u64,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    poller: Poller,
    waker: Waker,
    closing: AtomicBool,
    now_ms: fn() -> u64,
    state: Mutex<State>,
}

/// The one who looks.
pub struct Watch(Arc<Shared>);

impl Watch {
    /// Nobody is watched yet.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new(now_ms: fn() -> u64) -> io::Result<Self> {
        let (poller, waker) = (Poller::new()?, Waker::new()?);
        poller.add(waker.as_fd(), TOKEN_WAKER, Interest::READ)?;
        let state = Mutex::new(State { token_next: TOKEN_FIRST, ..State::default() });
        Ok(Self(Arc::new(Shared { poller, waker, closing: AtomicBool::new(false), now_ms, state })))
    }

    /// Looks after what is mapped of a neighbour's memory, from now on. Comes after every mapping that is made.
    ///
    /// # Errors
    /// Out of threads or of the kernel's memory, or closed: nothing of it may be mapped then.
    pub fn look_after(&self, near: &Arc<Near>) -> io::Result<()> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.closing.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if near.is_watched.load(Ordering::Relaxed) {
            drop(state);
            // It may be sleeping until something ends, because nothing was mapped.
            self.0.waker.wake();
            return Ok(());
        }
        if state.thread.is_none() {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("weft-ipc-watch".to_owned());
            state.thread = Some(thread.spawn(move || shared.run())?);
        }
        let token = state.token_next;
        self.0.poller.add(&near.conversation, token, Interest::NONE)?;
        state.token_next += 1;
        state.neighbours.insert(token, Arc::downgrade(near));
        near.is_watched.store(true, Ordering::Relaxed);
        drop(state);
        self.0.waker.wake();
        Ok(())
    }

    /// Ends the watch; what is mapped goes with its lanes. Twice is once.
    pub fn close(&self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.closing.store(true, Ordering::SeqCst);
        let thread = state.thread.take();
        drop(state);
        self.0.waker.wake();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run(&self) {
        let mut ready = Ready::with_capacity(64);
        let mut timeout = None;
        while !self.closing.load(Ordering::SeqCst) {
            if self.poller.wait(&mut ready, timeout).is_err() {
                break;
            }
            for (token, ended) in ready.endings().collect::<Vec<_>>() {
                if token == TOKEN_WAKER {
                    self.waker.clear();
                } else if ended {
                    self.ended(token);
                }
            }
            timeout = self.sweep().then_some(SWEEP_EVERY);
        }
    }

    /// A neighbour is gone: nothing of it stays mapped.
    fn ended(&self, token: u64) {
        let near = self.state.lock().unwrap_or_else(PoisonError::into_inner).neighbours.remove(&token);
        if let Some(near) = near.and_then(|near| near.upgrade()) {
            near.leave();
            let _ = self.poller.remove(&near.conversation);
            near.sweep((self.now_ms)());
        }
    }

    /// Whether anything is still mapped.
    fn sweep(&self) -> bool {
        let watched: Vec<(u64, Option<Arc<Near>>)> = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.neighbours.iter().map(|(token, near)| (*token, near.upgrade())).collect()
        };
        let (mut mapped, now_ms) = (0, (self.now_ms)());
        for (token, near) in watched {
            match near {
                Some(near) => mapped += near.sweep(now_ms),
                None => {
                    self.state.lock().unwrap_or_else(PoisonError::into_inner).neighbours.remove(&token);
                }
            }
        }
        mapped > 0
    }
}
