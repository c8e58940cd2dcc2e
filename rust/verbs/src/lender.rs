//! A server's RDMA: takes the words of its peers and keeps the table.
//!
//! Two threads: one answers, so that no word waits long; the other pins memory, which takes as long as the memory is
//! large. Whoever asks for a key that is not there yet is told to ask again, and reads over TCP meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use weft_transport::{Bypass, Granted, Inbox, Message, Server};
use weft_wire::{Code, Refusal};

use crate::VerbsError;
use crate::ffi::{Bounds, CompletionQueue, QueuePair};
use crate::rail::Rail;
use crate::record::EndpointRecord;
use crate::table::{Given, LEASE, Table};
use crate::words::{self, KeyRequest};

/// How often leases and grants are looked at while there are sessions: no right outlives its end by more.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// How often the threads look whether they should end.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// Extents waiting to be pinned; past it whoever asks is told to ask again.
const PINS_WAITING_MAX: usize = 64;

/// Lends over RDMA what a server lends over TCP.
pub struct Lender {
    table: Arc<Table>,
    server: Arc<Server>,
    told: Arc<dyn Bypass>,
    inbox: Arc<Inbox>,
    record: EndpointRecord,
    /// The queue pair of the record; it stays unconnected.
    _published: Mutex<QueuePair>,
    closing: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Desk {
    table: Arc<Table>,
    server: Arc<Server>,
    inbox: Arc<Inbox>,
    now_ms: fn() -> u64,
    closing: Arc<AtomicBool>,
    pins: SyncSender<Granted>,
}

impl Lender {
    /// Lends what `server` serves to peers that ask. `now_ms` is the server's own clock for the ends of grants.
    ///
    /// # Errors
    /// When the device gives no memory or queue, or threads cannot be started.
    pub fn start(rail: &Arc<Rail>, server: &Arc<Server>, now_ms: fn() -> u64) -> Result<Self, VerbsError> {
        Self::start_with(rail, server, now_ms, LEASE)
    }

    /// As [`Lender::start`], with another lease.
    ///
    /// # Errors
    /// As [`Lender::start`].
    pub fn start_with(
        rail: &Arc<Rail>,
        server: &Arc<Server>,
        now_ms: fn() -> u64,
        lease: Duration,
    ) -> Result<Self, VerbsError> {
        let table = Arc::new(Table::new(rail, lease)?);
        let completions = CompletionQueue::new(rail.device(), 1)?;
        let bounds = Bounds { work: 1, receives: 1, inline_bytes: 0, answers: true };
        let published = QueuePair::new(rail.domain(), &completions, bounds, rail.sequence()?)?;
        let port = rail.device().port();
        let record =
            EndpointRecord { qpn: published.number(), lid: port.lid, gid: port.gid, psn: published.sequence() };
        let told: Arc<dyn Bypass> = Arc::clone(&table) as Arc<dyn Bypass>;
        server.store().tell(Arc::clone(&told));
        let closing = Arc::new(AtomicBool::new(false));
        let (pins, waiting) = sync_channel(PINS_WAITING_MAX);
        let inbox = server.open_desk(words::TOPICS);
        let desk = Desk {
            table: Arc::clone(&table),
            server: Arc::clone(server),
            inbox: Arc::clone(&inbox),
            now_ms,
            closing: Arc::clone(&closing),
            pins,
        };
        let spawned = |cause| VerbsError::Call { doing: "starting a thread for RDMA", cause };
        let pinned = Arc::clone(&table);
        let pinning = Arc::clone(rail);
        let ended = Arc::clone(&closing);
        let threads = vec![
            // The desk goes first: with it ends the queue the other waits on.
            thread::Builder::new().name("weft-rdma-desk".to_owned()).spawn(move || desk.run()).map_err(spawned)?,
            thread::Builder::new()
                .name("weft-rdma-pin".to_owned())
                .spawn(move || pin(&waiting, &pinned, &pinning, &ended))
                .map_err(spawned)?,
        ];
        Ok(Self {
            table,
            server: Arc::clone(server),
            told,
            inbox,
            record,
            _published: Mutex::new(published),
            closing,
            threads: Mutex::new(threads),
        })
    }

    /// What to publish of this node.
    pub fn record(&self) -> EndpointRecord {
        self.record
    }

    /// Sessions and keys there are now.
    pub fn counts(&self) -> (usize, usize) {
        self.table.counts()
    }

    /// Ends every session and takes back every key. Twice is once.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        let wake = Message { sender: String::new(), incarnation: 0, topic: 0, payload: Vec::new(), ticket: None };
        // A full inbox wakes it as well.
        let _ = self.inbox.put(wake);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
        self.table.close();
        // After the table: who is told that there is no RDMA here takes its session for ended.
        self.server.close_desk(&self.inbox);
        self.server.store().tell_no_more(&self.told);
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        self.close();
    }
}

impl Desk {
    fn run(self) {
        let mut swept = Instant::now();
        while !self.closing.load(Ordering::Acquire) {
            let (sessions, keys) = self.table.counts();
            let wait = if sessions + keys > 0 { SWEEP_EVERY } else { IDLE_WAIT };
            if let Some(message) = self.inbox.take(wait) {
                let Some(ticket) = message.ticket else { continue };
                self.server.answer(ticket, self.answer(&message));
            }
            if swept.elapsed() >= SWEEP_EVERY {
                self.table.sweep(Instant::now(), (self.now_ms)());
                swept = Instant::now();
            }
        }
    }

    fn answer(&self, message: &Message) -> Result<Vec<u8>, Refusal> {
        let malformed = |error: VerbsError| Refusal::new(Code::BadFrame, error.to_string());
        let (sender, now) = (message.sender.as_str(), Instant::now());
        match message.topic {
            words::TOPIC_CONNECT => {
                let side = words::decode_connect(&message.payload).map_err(malformed)?;
                Ok(self.table.connect(sender, &side, now)?.encode())
            }
            words::TOPIC_KEY => {
                let request = KeyRequest::decode(&message.payload).map_err(malformed)?;
                self.key(sender, &request)
            }
            words::TOPIC_RENEW => {
                let session = words::decode_session(&message.payload).map_err(malformed)?;
                let (lease_ms, version) = self.table.renew(session, sender, now)?;
                Ok(words::encode_pair(lease_ms, version))
            }
            words::TOPIC_CUT => {
                self.table.cut(words::decode_session(&message.payload).map_err(malformed)?, sender);
                Ok(Vec::new())
            }
            other => Err(Refusal::new(Code::NotSupported, format!("topic {other:#x} has no meaning here"))),
        }
    }

    fn key(&self, sender: &str, request: &KeyRequest<'_>) -> Result<Vec<u8>, Refusal> {
        // Judged as an open is: forged, expired, stale and lost grants get no key.
        let granted = self.server.examine(request.index, request.incarnation, request.opening)?;
        match self.table.give(request.session, sender, &granted, (self.now_ms)())? {
            Given::Key(key) => Ok(key.encode()),
            Given::Later => {
                let _ = self.pins.try_send(granted);
                Err(Refusal::new(Code::Busy, "the memory is being pinned; ask for its key again"))
            }
        }
    }
}

fn pin(waiting: &Receiver<Granted>, table: &Table, rail: &Rail, closing: &AtomicBool) {
    while !closing.load(Ordering::Acquire) {
        match waiting.recv_timeout(IDLE_WAIT) {
            Ok(granted) => {
                if let Err(refusal) = table.pin(&granted) {
                    rail.say(format!(
                        "extent {} of region {} stays on TCP: {refusal}",
                        granted.extent.index, granted.extent.region_id
                    ));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
