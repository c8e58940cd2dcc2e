//! The server: a listening socket, a thread that accepts, and the loops that serve.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use weft_sys::event::{Interest, Poller, Ready, Waker};
use weft_sys::socket::{self, Options};

use super::Counters;
use super::event_loop::{EventLoop, Mailbox};
use super::inbox::{Inbox, Message, MessageSink, Ticket};
use super::requests::{Granted, Shared};
use weft_wire::{Code, Refusal};

use crate::{Identity, Store};

/// How a server listens.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address to listen at.
    pub host: IpAddr,
    /// Ports to try, in order; `0..=0` lets the kernel choose.
    pub ports: RangeInclusive<u16>,
    /// Socket options of accepted connections.
    pub socket: Options,
    /// Longest spin between two requests.
    pub spin: Duration,
    /// Connections served at once.
    pub connections_max: usize,
    /// Time a peer has to prove the secret.
    pub handshake_deadline: Duration,
    /// Time answers under way have when the server closes.
    pub drain_deadline: Duration,
    /// Milliseconds of the Unix clock, for the ends of grants.
    pub now_ms: fn() -> u64,
}

/// Serves extents to peers that hold grants.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    mailboxes: Arc<Vec<Arc<Mailbox>>>,
    accepting: Arc<Accepting>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Accepting {
    waker: Waker,
    closing: AtomicBool,
}

impl Server {
    /// Listens on the first free port and serves from then on.
    ///
    /// # Errors
    /// `AddrInUse` when every port of the range is taken; whatever else binding or starting threads meets.
    pub fn start(identity: Identity, config: ServerConfig) -> io::Result<Self> {
        Self::start_with(identity, config, None)
    }

    /// As [`Server::start`], with `sink` for the messages that are its own.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(
        identity: Identity,
        config: ServerConfig,
        sink: Option<Arc<dyn MessageSink>>,
    ) -> io::Result<Self> {
        let listener = socket::listen(config.host, config.ports.clone())?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(identity, sink, config.now_ms));
        // One loop for two CPUs: the other is the client's. Connections are independent, so more loops need no sharing.
        let loops = (weft_sys::cpu::allowed_count() / 2).clamp(1, 4);
        let mut mailboxes = Vec::with_capacity(loops);
        let mut threads = Vec::with_capacity(loops + 1);
        for index in 0..loops {
            let mailbox = Arc::new(Mailbox::new()?);
            let event_loop = EventLoop::new(
                index,
                Arc::clone(&shared),
                Arc::clone(&mailbox),
                config.spin,
                config.handshake_deadline,
                config.drain_deadline,
            )?;
            mailboxes.push(mailbox);
            threads.push(thread::Builder::new().name(format!("weft-serve-{index}")).spawn(move || event_loop.run())?);
        }
        let mailboxes = Arc::new(mailboxes);
        let accepting = Arc::new(Accepting { waker: Waker::new()?, closing: AtomicBool::new(false) });
        let acceptor = {
            let (shared, mailboxes, accepting) = (Arc::clone(&shared), Arc::clone(&mailboxes), Arc::clone(&accepting));
            thread::Builder::new()
                .name("weft-accept".to_owned())
                .spawn(move || accept(&listener, &config, &shared, &mailboxes, &accepting))?
        };
        threads.push(acceptor);
        Ok(Self { shared, address, mailboxes, accepting, threads: Mutex::new(threads) })
    }

    /// One that does not listen, for whoever only calls others: nothing it serves is reached, and it has no threads.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn silent(identity: Identity, now_ms: fn() -> u64) -> io::Result<Self> {
        let accepting = Accepting { waker: Waker::new()?, closing: AtomicBool::new(true) };
        Ok(Self {
            shared: Arc::new(Shared::new(identity, None, now_ms)),
            address: (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).into(),
            mailboxes: Arc::default(),
            accepting: Arc::new(accepting),
            threads: Mutex::default(),
        })
    }

    /// Where it listens; the port is the real one. Port 0 where it does not.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it serves.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// What it counted.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The oldest message a peer sent, waiting at most `timeout`.
    pub fn receive_message(&self, timeout: Duration) -> Option<Message> {
        self.shared.inbox.take(timeout)
    }

    /// Answers a message whose sender waits. An answer that comes too late, or twice, is dropped.
    pub fn answer(&self, ticket: Ticket, answer: Result<Vec<u8>, Refusal>) {
        if let Some(mailbox) = self.mailboxes.get(ticket.event_loop) {
            mailbox.answer(ticket.connection, ticket.request, answer);
        }
    }

    /// A queue of its own for the messages of these topics: whoever asked takes and answers them, nobody else sees them.
    /// The newest desk of a topic has it.
    pub fn open_desk(&self, topics: RangeInclusive<u64>) -> Arc<Inbox> {
        let desk = Arc::new(Inbox::default());
        self.shared.desks.write().unwrap_or_else(PoisonError::into_inner).insert(0, (topics, Arc::clone(&desk)));
        desk
    }

    /// Closes a desk, and refuses what nobody took from it; later messages of its topics are nobody's.
    pub fn close_desk(&self, desk: &Arc<Inbox>) {
        self.shared
            .desks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(_, known)| !Arc::ptr_eq(known, desk));
        while let Some(message) = desk.take(Duration::ZERO) {
            if let Some(ticket) = message.ticket {
                self.answer(ticket, Err(Refusal::new(Code::NotSupported, "the desk it was meant for has closed")));
            }
        }
    }

    /// Judges an opening that came by another way than an `open`, as an `open` is judged.
    ///
    /// # Errors
    /// The refusal its presenter gets.
    pub fn examine(&self, index: u64, incarnation: u64, opening: &[u8]) -> Result<Granted, Refusal> {
        self.shared.examine(index, incarnation, opening)
    }

    /// Stops accepting, finishes answers under way within the drain deadline, and ends. Twice is once.
    pub fn close(&self) {
        self.accepting.closing.store(true, Ordering::Release);
        self.accepting.waker.wake();
        for mailbox in self.mailboxes.iter() {
            mailbox.close();
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// Accepts until told to close; each connection goes to the loop that drives the fewest.
fn accept(
    listener: &TcpListener,
    config: &ServerConfig,
    shared: &Shared,
    mailboxes: &[Arc<Mailbox>],
    accepting: &Accepting,
) {
    let Ok(poller) = Poller::new() else { return };
    let mut ready = Ready::with_capacity(2);
    if poller.add(listener, 0, Interest::READ).is_err()
        || poller.add(accepting.waker.as_fd(), 1, Interest::READ).is_err()
    {
        return;
    }
    while !accepting.closing.load(Ordering::Acquire) {
        if poller.wait(&mut ready, None).is_err() {
            return;
        }
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Out of descriptors, or a peer that went before it was accepted: the pause keeps the loop from burning a
                // CPU while the cause lasts.
                Err(_) => {
                    thread::sleep(Duration::from_millis(10));
                    break;
                }
            };
            let least = mailboxes.iter().min_by_key(|mailbox| mailbox.connections()).expect("there is a loop");
            let connected: usize = mailboxes.iter().map(|mailbox| mailbox.connections()).sum();
            if connected >= config.connections_max {
                Counters::add(&shared.counters.connections_turned_away, 1);
                continue;
            }
            if stream.set_nonblocking(false).is_err() || socket::configure(&stream, &config.socket).is_err() {
                continue;
            }
            Counters::add(&shared.counters.connections_accepted, 1);
            least.hand_over(stream);
        }
    }
}
