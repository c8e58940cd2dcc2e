//! What a program holds: its memory, its links, and the transfers over them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_sys::memory::{Mapping, PAGE_BYTES, Span};
use weft_sys::neighbour;
use weft_transport::{ConnectOptions, Identity, Server, ServerConfig, TcpxOptions, Tls};
use weft_wire::{Advert, Greeting, NOTICE_BYTES_MAX, NOTICE_NAME_BYTES_MAX, NOTICE_PART_BYTES_MAX, Word};

use crate::Failure;
use crate::ipc::{NearLender, Owner, Watch};
use crate::link::Link;
use crate::matching::{Matching, Receive, Send, key};
use crate::memory::{Memory, MemoryCounts};
use crate::notices::{Notice, Notices};
use crate::piece::{Direction, Part, check, cut, inquire};
use crate::progress::{Command, Core, Mailbox, TRANSFERS_MAX};
use crate::rdma::Rdma;
use crate::router::Router;
use crate::track::PIECE_BYTES_MAX;
use crate::transfer::Transfer;
use crate::ways::LinkStatus;

/// A receive's grant outlives its deadline by this, so that clocks that differ a little end no transfer.
const GRANT_SPARE_MS: u64 = 60_000;

/// How an endpoint is made.
pub struct EndpointConfig {
    /// The cluster its peers belong to.
    pub cluster_id: [u8; 16],
    /// The cluster's secret.
    pub secret: Vec<u8>,
    /// The name peers know it by.
    pub name: String,
    /// This life of it; random.
    pub incarnation: u64,
    /// How it listens; none for one that only calls: it is not reached, so that it advertises and receives nothing.
    pub server: Option<ServerConfig>,
    /// Whether messages that are no words of endpoints are kept for [`Server::receive_message`]; refused otherwise.
    pub inbox: bool,
    /// How it connects.
    pub connect: ConnectOptions,
    /// Milliseconds of the Unix clock, for the ends of grants.
    pub now_ms: fn() -> u64,
    /// Whether processes of this user on this machine are reached without a network, where that works.
    pub ipc: bool,
    /// How it speaks TLS, where it does. Its name is then one that the certificate holds.
    pub tls: Option<Arc<Tls>>,
}

/// One process's end of transfers.
pub struct Endpoint {
    pub(crate) identity: Arc<Identity>,
    pub(crate) connect: ConnectOptions,
    pub(crate) now_ms: fn() -> u64,
    pub(crate) server: Arc<Server>,
    memory: Arc<Memory>,
    matching: Arc<Matching>,
    notices: Arc<Notices>,
    pub(crate) router: Arc<Router>,
    /// Answers neighbours; none where there are no UNIX sockets, or they are not wanted.
    pub(crate) owner: Option<Owner>,
    /// Looks after what is mapped of neighbours' memory; there where neighbours are looked for.
    pub(crate) watch: Option<Arc<Watch>>,
    /// Hands extents over to processes of this machine, where that was asked for.
    near: Mutex<Option<NearLender>>,
    /// Queue pairs; none until a device is taken into use.
    pub(crate) rdma: Mutex<Option<Arc<Rdma>>>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) links: Mutex<HashMap<u64, Arc<Link>>>,
    link_next: AtomicU64,
    transfer_next: AtomicU64,
    under_way: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
    /// How bounce buffers are made, where they are wanted.
    pub(crate) bounce: Mutex<Option<TcpxOptions>>,
}

/// What an endpoint is doing.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// Its links.
    pub links: Vec<LinkStatus>,
    /// Its memory.
    pub memory: MemoryCounts,
    /// Transfers under way.
    pub transfers: usize,
}

impl Endpoint {
    /// Listens, and works from then on.
    ///
    /// # Errors
    /// As [`Server::start`]; out of descriptors or threads.
    pub fn start(config: EndpointConfig) -> io::Result<Self> {
        let identity =
            Identity::new(config.cluster_id, &config.secret, config.name, config.incarnation).with_tls(config.tls);
        let mailbox = Arc::new(Mailbox::new()?);
        let matching = Arc::new(Matching::default());
        let notices = Arc::new(Notices::default());
        let router =
            Arc::new(Router::new(Arc::clone(&mailbox), Arc::clone(&matching), Arc::clone(&notices), config.inbox));
        let sink: Arc<dyn weft_transport::MessageSink> = Arc::clone(&router) as _;
        let listens = config.server.is_some();
        let server = Arc::new(match config.server {
            Some(server) => Server::start_with(identity.clone(), server, Some(sink))?,
            None => Server::silent(identity.clone(), config.now_ms)?,
        });
        let memory = Arc::new(Memory::new(config.cluster_id, &config.secret, &identity.name, config.incarnation));
        let core = Core::new(
            Arc::clone(&mailbox),
            Arc::clone(&matching),
            Arc::clone(&memory),
            Arc::clone(&server),
            config.connect.spin,
        )?;
        let address = server.address();
        let mut greeting = Greeting { host: address.ip().to_string(), port: address.port(), ..Greeting::default() };
        let mut owner = None;
        if config.ipc && listens {
            // Without it everything still works, over TCP.
            owner = Owner::start(
                config.cluster_id,
                &config.secret,
                config.incarnation,
                Arc::clone(&memory),
                Arc::clone(&server),
                config.now_ms,
            )
            .ok();
        }
        let watch = if config.ipc { Watch::new(config.now_ms).ok().map(Arc::new) } else { None };
        if let Some(owner) = &owner {
            memory.also_ask(owner.withdrawing());
            owner.name().clone_into(&mut greeting.socket);
        }
        if config.ipc && (owner.is_some() || !listens) {
            greeting.machine = neighbour::machine();
            greeting.user = neighbour::user();
        }
        router.set_greeting(greeting);
        let thread = std::thread::Builder::new().name("weft-move".to_owned()).spawn(move || core.run())?;
        Ok(Self {
            identity: Arc::new(identity),
            connect: config.connect,
            now_ms: config.now_ms,
            server,
            memory,
            matching,
            notices,
            router,
            owner,
            watch,
            near: Mutex::default(),
            rdma: Mutex::default(),
            mailbox,
            links: Mutex::default(),
            link_next: AtomicU64::new(1),
            transfer_next: AtomicU64::new(1),
            under_way: Arc::new(AtomicUsize::new(0)),
            thread: Mutex::new(Some(thread)),
            closed: AtomicBool::new(false),
            bounce: Mutex::new(None),
        })
    }

    /// From here on peers are reached by lanes whose answers are gathered from bounce buffers.
    pub fn through_bounce(&self, tcpx: TcpxOptions) {
        *self.bounce.lock().unwrap_or_else(PoisonError::into_inner) = Some(tcpx);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What peers know it by.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The server, for its counters.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Its memory, as others may reach it.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What it is doing.
    pub fn status(&self) -> EndpointStatus {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut links: Vec<_> = links.values().map(|link| link.status()).collect();
        links.sort_by(|one, other| (&one.peer, one.address).cmp(&(&other.peer, other.address)));
        EndpointStatus { links, memory: self.memory.counts(), transfers: self.under_way.load(Ordering::Relaxed) }
    }

    /// Connects to the endpoint that listens at `address`, and takes the best way that works.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub fn connect(&self, address: SocketAddr, deadline: Instant) -> Result<Arc<Link>, Failure> {
        let link = self.meet(address, deadline)?;
        self.take_best(&link, deadline);
        Ok(link)
    }

    /// Connects to the endpoint that listens at `address`, by TCP: which way is taken is said by [`Endpoint::take_way`].
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub fn meet(&self, address: SocketAddr, deadline: Instant) -> Result<Arc<Link>, Failure> {
        self.check_open()?;
        let mut greeting = self.router.greeting();
        if greeting.host.parse::<IpAddr>().is_ok_and(|host| host.is_unspecified()) {
            // Listening everywhere: the peer is told the address this machine has on the way to it.
            if let Some(host) = source_address(address) {
                greeting.host = host.to_string();
            }
        }
        let number = self.link_next.fetch_add(1, Ordering::Relaxed);
        let link =
            Link::connect(number, address, Arc::clone(&self.identity), self.connect.clone(), &greeting, deadline)?;
        Ok(self.keep(link))
    }

    /// The quickest of a few round trips to whoever listens at `address`, over a connection of its own.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub fn measure(&self, address: SocketAddr, deadline: Instant) -> Result<Duration, Failure> {
        self.check_open()?;
        let greeting = Greeting { port: 0, ..self.router.greeting() };
        Link::connect(0, address, Arc::clone(&self.identity), self.connect.clone(), &greeting, deadline)?.ping(deadline)
    }

    /// The next peer that connected here; `None` when none did until `until`. The link goes back to where it listens.
    ///
    /// # Errors
    /// As [`Endpoint::connect`]: the peer cannot be reached from here.
    pub fn accept(&self, until: Instant) -> Result<Option<Arc<Link>>, Failure> {
        let link = self.accept_plain(until)?;
        if let Some(link) = &link {
            self.take_best(link, link.connect_deadline());
        }
        Ok(link)
    }

    /// As [`Endpoint::accept`], by TCP: which way is taken is said by [`Endpoint::take_way`].
    ///
    /// # Errors
    /// As [`Endpoint::accept`].
    pub fn accept_plain(&self, until: Instant) -> Result<Option<Arc<Link>>, Failure> {
        self.check_open()?;
        let Some(incoming) = self.router.next(until) else { return Ok(None) };
        let name = &incoming.peer.0;
        let host: IpAddr = incoming.greeting.host.parse().map_err(|_| {
            let detail = format!("{name} says it listens at {:?}, which is no address", incoming.greeting.host);
            Failure::new("bad_frame", name, detail)
        })?;
        let address = SocketAddr::new(host, incoming.greeting.port);
        let mut greeting = self.router.greeting();
        // Zero says: this answers a connection of yours, and is not to be accepted in turn.
        greeting.port = 0;
        let number = self.link_next.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + self.connect.timeout;
        let link =
            Link::connect(number, address, Arc::clone(&self.identity), self.connect.clone(), &greeting, deadline)?;
        if link.peer.incarnation != incoming.peer.1 {
            let detail = format!("{name} is gone; another process answers at {address}");
            return Err(Failure::new("disconnected", name, detail));
        }
        Ok(Some(self.keep(link)))
    }

    fn keep(&self, link: Link) -> Arc<Link> {
        let link = Arc::new(link);
        self.links.lock().unwrap_or_else(PoisonError::into_inner).insert(link.number, Arc::clone(&link));
        link
    }

    /// Hands the extents its server lends to processes of this machine, to be mapped and read. Twice is once.
    ///
    /// # Errors
    /// `not_supported` where there are no UNIX sockets, or descriptors and threads for them.
    pub fn lend_near(&self) -> Result<(), Failure> {
        self.check_reached()?;
        let mut near = self.near.lock().unwrap_or_else(PoisonError::into_inner);
        if near.is_none() {
            let started = NearLender::start(&self.server, &self.identity).map_err(|error| {
                let detail = format!("no UNIX socket could be had to hand memory over: {error}");
                Failure::new("not_supported", &self.identity.name, detail)
            })?;
            *near = Some(started);
        }
        Ok(())
    }

    /// Gives a link up: what is under way on it fails as `closed`.
    pub fn disconnect(&self, link: &Arc<Link>) {
        link.close();
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.remove(&link.number);
        // A program may hold several links to one peer, and receives were posted to the process, not to a link.
        let peer = key(link);
        let last = !links.values().any(|other| key(other) == peer);
        drop(links);
        self.mailbox.put(Command::Leave { link: link.number, peer: last.then_some(peer) });
    }

    /// Memory that neighbours read without asking the kernel, once they have a right to it: whole pages, all of them backed,
    /// zero. It is registered and advertised as any other.
    ///
    /// # Errors
    /// `bad_argument` for no bytes, `no_memory` when the machine has not so much.
    pub fn allocate(&self, size_bytes: usize) -> Result<Arc<Mapping>, Failure> {
        self.check_open()?;
        let whole = size_bytes.checked_next_multiple_of(PAGE_BYTES).filter(|whole| *whole > 0);
        let whole = whole.ok_or_else(|| Failure::argument("memory of no bytes cannot be had; ask for at least one"))?;
        let mapping = Mapping::lendable("weft-memory", whole).map_err(|error| {
            Failure::new("no_memory", &self.identity.name, format!("{size_bytes} bytes cannot be had: {error}"))
        })?;
        let mapping = Arc::new(mapping);
        self.memory.lend(&mapping);
        Ok(mapping)
    }

    /// Lets peers reach a part of a registration.
    ///
    /// # Errors
    /// As [`Memory::advertise`].
    pub fn advertise(
        &self,
        registration: u64,
        offset: u64,
        length: u64,
        writable: bool,
        lasts: Duration,
    ) -> Result<Advert, Failure> {
        self.check_reached()?;
        let expires_at_ms = (self.now_ms)().saturating_add(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        self.memory.advertise(self.server.store(), registration, offset, length, writable, expires_at_ms)
    }

    /// Takes an advert back.
    ///
    /// # Errors
    /// As [`Memory::withdraw`].
    pub fn withdraw(&self, buffer: u64) -> Result<(), Failure> {
        self.memory.withdraw(self.server.store(), buffer)
    }

    /// Releases a registration.
    ///
    /// # Errors
    /// As [`Memory::release`].
    pub fn release(&self, registration: u64) -> Result<(), Failure> {
        self.memory.release(self.server.store(), registration)
    }

    /// Moves bytes and returns when they are moved; the calling thread does it.
    ///
    /// # Errors
    /// What is wrong with the parts, the peer's refusal, or the connection's failure.
    pub fn move_now(
        &self,
        link: &Link,
        direction: Direction,
        parts: &[Part],
        deadline: Instant,
    ) -> Result<u64, Failure> {
        let bytes = check(direction, parts)?;
        let first = &parts[0];
        link.move_now(direction, parts, deadline).map_err(|failure| failure.within(&first.advert, first.offset))?;
        Ok(bytes)
    }

    /// Moves bytes while the caller does something else. The memory stays as it is until the transfer has ended.
    ///
    /// # Errors
    /// What is wrong with the parts; `busy` when too many transfers are under way. Nothing is queued then.
    pub fn post(
        &self,
        link: &Arc<Link>,
        direction: Direction,
        parts: &[Part],
        deadline: Instant,
    ) -> Result<Arc<Transfer>, Failure> {
        check(direction, parts)?;
        let pieces = cut(parts, PIECE_BYTES_MAX);
        let inquiry = inquire(direction, &pieces)?;
        let transfer = self.transfer(link, deadline)?;
        self.mailbox.put(Command::Move {
            transfer: Arc::clone(&transfer),
            link: Arc::clone(link),
            direction,
            pieces,
            inquiry,
        });
        Ok(transfer)
    }

    /// Sends `span` to the next receive of `tag` that the peer posts.
    ///
    /// # Errors
    /// As [`Endpoint::post`].
    pub fn send(&self, link: &Arc<Link>, tag: u64, span: Span, deadline: Instant) -> Result<Arc<Transfer>, Failure> {
        if span.is_empty() {
            return Err(Failure::argument("a send needs at least one byte; an empty one is a notification"));
        }
        let transfer = self.transfer(link, deadline)?;
        self.mailbox.put(Command::Watch(Arc::clone(&transfer)));
        let send = Send { transfer: Arc::clone(&transfer), link: Arc::clone(link), span, tag };
        if let Some((send, credit)) = self.matching.send(send) {
            self.mailbox.put(Command::Met(send, credit));
        }
        Ok(transfer)
    }

    /// Receives the next send of `tag` from the peer into `span`. Done says how many bytes came.
    ///
    /// # Errors
    /// As [`Endpoint::post`].
    pub fn receive(&self, link: &Arc<Link>, tag: u64, span: Span, deadline: Instant) -> Result<Arc<Transfer>, Failure> {
        if span.is_empty() {
            return Err(Failure::argument("a receive needs room for at least one byte"));
        }
        self.check_reached()?;
        let lasts = deadline.saturating_duration_since(Instant::now());
        let expires_at_ms = (self.now_ms)()
            .saturating_add(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX))
            .saturating_add(GRANT_SPARE_MS);
        let advert = self.memory.serve(self.server.store(), span, true, expires_at_ms)?;
        let transfer = match self.transfer(link, deadline) {
            Ok(transfer) => transfer,
            Err(failure) => {
                self.withdraw(advert.buffer)?;
                return Err(failure);
            }
        };
        self.matching.receive(Receive {
            transfer: Arc::clone(&transfer),
            link: Arc::clone(link),
            buffer: advert.buffer,
            length: span.len() as u64,
        });
        let word = Word::Posted { receive: transfer.id(), tag, advert: advert.encode() };
        self.mailbox.put(Command::Receive(Arc::clone(&transfer), word));
        Ok(transfer)
    }

    /// Notifies the peer. Done once the peer has it, behind every write that was done before this was called.
    ///
    /// # Errors
    /// `too_large`, and as [`Endpoint::post`].
    pub fn notify(
        &self,
        link: &Arc<Link>,
        name: &[u8],
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Arc<Transfer>, Failure> {
        if name.len() > NOTICE_NAME_BYTES_MAX || bytes.len() as u64 > NOTICE_BYTES_MAX {
            let detail = format!(
                "a notification has a name of at most {NOTICE_NAME_BYTES_MAX} bytes and at most {NOTICE_BYTES_MAX} bytes \
                 of content; this one has {} and {}",
                name.len(),
                bytes.len()
            );
            return Err(Failure::new("too_large", &link.peer.name, detail));
        }
        let transfer = self.transfer(link, deadline)?;
        let total = bytes.len() as u64;
        let chunks: Vec<&[u8]> =
            if bytes.is_empty() { vec![bytes] } else { bytes.chunks(NOTICE_PART_BYTES_MAX).collect() };
        let parts = u32::try_from(chunks.len()).expect("a handful of parts");
        let words = (0u32..)
            .zip(chunks)
            .map(|(part, chunk)| Word::Notice { part, parts, total, name: name.to_vec(), bytes: chunk.to_vec() })
            .collect();
        self.mailbox.put(Command::Say {
            link: Arc::clone(link),
            words,
            transfer: Some(Arc::clone(&transfer)),
            ends: Some(total),
            deadline,
        });
        Ok(transfer)
    }

    /// The notifications that arrived, waiting for one until `until`.
    pub fn notices(&self, until: Instant) -> Vec<Notice> {
        self.notices.take(until)
    }

    /// Takes a transfer back: it ends as cancelled as soon as its memory is let go of, unless it ends otherwise first.
    pub fn cancel(&self, transfer: &Transfer) {
        if !transfer.has_ended() {
            self.mailbox.put(Command::Cancel(transfer.id()));
        }
    }

    /// Ends everything: transfers under way fail as `closed`, links and the server end. Twice is once.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let links: Vec<_> =
            self.links.lock().unwrap_or_else(PoisonError::into_inner).drain().map(|(_, link)| link).collect();
        for link in links {
            link.close();
        }
        self.mailbox.close();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
        if let Some(owner) = &self.owner {
            owner.close();
            self.memory.ask_nobody();
        }
        if let Some(watch) = &self.watch {
            watch.close();
        }
        drop(self.near.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(rdma) = self.rdma()
            && let Some(lender) = &rdma.lender
        {
            lender.close();
        }
        self.server.close();
    }

    fn transfer(&self, link: &Link, deadline: Instant) -> Result<Arc<Transfer>, Failure> {
        self.check_open()?;
        if link.is_closed() {
            return Err(Failure::closed(&link.peer.name));
        }
        if self.under_way.load(Ordering::Relaxed) >= TRANSFERS_MAX {
            let detail = format!("{TRANSFERS_MAX} transfers are under way; wait for some before posting more");
            return Err(Failure { temporary: true, ..Failure::new("busy", &link.peer.name, detail) });
        }
        Ok(Transfer::new(self.transfer_next.fetch_add(1, Ordering::Relaxed), deadline, &self.under_way))
    }

    fn check_reached(&self) -> Result<(), Failure> {
        self.check_open()?;
        if self.server.address().port() == 0 {
            return Err(Failure::argument(
                "this endpoint only calls others and is reached by nobody; make one that listens",
            ));
        }
        Ok(())
    }

    pub(crate) fn check_open(&self) -> Result<(), Failure> {
        if self.closed.load(Ordering::Acquire) { Err(Failure::closed(&self.identity.name)) } else { Ok(()) }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.close();
    }
}

/// The address this machine has on the way to `peer`. No packet is sent.
fn source_address(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(peer).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
