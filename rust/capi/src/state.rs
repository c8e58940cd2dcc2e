//! What lies behind the handles: an endpoint, its connections, their transfers, and each thread's last error.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_char, c_int};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_engine::{Direction, Endpoint, EndpointConfig, Failure, Link, Notice, Part, Status, Transfer};
use weft_sys::memory::Span;
use weft_sys::socket::Options;
use weft_transport::{ConnectOptions, ServerConfig, Tls, TlsPart};
use weft_wire::Item;

/// A transfer has this, and its size at ten megabytes a second.
const TRANSFER_MS: u64 = 30_000;
const SLOWEST_BYTES_PER_MS: u64 = 10_000;
/// A right lasts this long.
const ADVERT_LASTS: Duration = Duration::from_secs(3600);
/// What sends and receives of C are matched by, which has no tags: their order.
const TAG: u64 = 0;
/// How long accepting waits before it looks whether it was stopped.
const LOOK: Duration = Duration::from_millis(50);

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Remembers why, and returns what the function returns then.
pub fn fail_with<T>(reason: &str, value: T) -> T {
    LAST.with_borrow_mut(|last| *last = CString::new(reason.replace('\0', " ")).unwrap_or_default());
    value
}

/// The same of the engine's failure.
pub fn fail<T>(failure: &Failure, value: T) -> T {
    fail_with(&failure.to_string(), value)
}

/// The thread's last, which lives until its next.
pub fn last_error() -> *const c_char {
    LAST.with_borrow(|last| last.as_ptr())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn random() -> Result<u64, String> {
    let mut bytes = [0; 8];
    weft_sys::random::fill(&mut bytes).map_err(|error| format!("no randomness: {error}"))?;
    Ok(u64::from_le_bytes(bytes) | 1)
}

/// What WEFT_TLS_CA, WEFT_TLS_CERT and WEFT_TLS_KEY name; all of them or none.
fn tls(value_of: impl Fn(&str) -> String) -> Result<Option<Arc<Tls>>, String> {
    let variables = [TlsPart::Authority, TlsPart::Certificate, TlsPart::Key].map(TlsPart::variable);
    let paths = variables.map(value_of);
    if paths.iter().all(String::is_empty) {
        return Ok(None);
    }
    let mut parts = Vec::with_capacity(paths.len());
    for (variable, path) in variables.iter().zip(&paths) {
        if path.is_empty() {
            return Err(format!("{variable} is not set; TLS needs {}", variables.join(", ")));
        }
        parts.push(std::fs::read(path).map_err(|error| format!("{variable}: cannot read {path}: {error}"))?);
    }
    let tls = Tls::from_pem(&parts[0], &parts[1], &parts[2]).map_err(|error| error.to_string())?;
    tls.check().map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(tls)))
}

/// An endpoint, as C holds it.
pub struct Engine {
    pub endpoint: Arc<Endpoint>,
    cluster_id: [u8; 16],
    notices: Mutex<VecDeque<Notice>>,
    accepting: AtomicBool,
}

impl Engine {
    /// Listens at 127.0.0.1, or at WEFT_HOST.
    pub fn start() -> Result<Self, String> {
        let secret = std::env::var("WEFT_SECRET").unwrap_or_default();
        if secret.is_empty() {
            return Err("WEFT_SECRET is not set; give both processes the same".to_owned());
        }
        let host = match std::env::var("WEFT_HOST") {
            Ok(text) => text.parse().map_err(|_| format!("WEFT_HOST is no IP address: {text:?}"))?,
            Err(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let ipc = match std::env::var("WEFT_TRANSPORT").as_deref() {
            Err(_) | Ok("" | "ipc") => true,
            Ok("tcp") => false,
            Ok(other) => return Err(format!("WEFT_TRANSPORT is one of ipc, tcp, not {other:?}")),
        };
        let incarnation = random()?;
        let cluster_id = weft_wire::cluster_of_secret(secret.as_bytes());
        let config = EndpointConfig {
            cluster_id,
            secret: secret.into_bytes(),
            name: format!("c-{}-{:04x}", std::process::id(), incarnation & 0xffff),
            incarnation,
            server: Some(ServerConfig {
                host,
                ports: 0..=0,
                socket: Options::default(),
                spin: Duration::from_micros(50),
                connections_max: 1024,
                handshake_deadline: Duration::from_secs(2),
                drain_deadline: Duration::from_secs(2),
                now_ms,
            }),
            inbox: false,
            connect: ConnectOptions::default(),
            now_ms,
            ipc,
            tls: tls(|variable| std::env::var(variable).unwrap_or_default())?,
        };
        let endpoint = Endpoint::start(config).map_err(|error| format!("the endpoint cannot listen: {error}"))?;
        Ok(Self {
            endpoint: Arc::new(endpoint),
            cluster_id,
            notices: Mutex::default(),
            accepting: AtomicBool::new(true),
        })
    }

    pub fn connect(&self, ip: &str, port: c_int) -> Result<Conn, Failure> {
        let host: IpAddr =
            ip.parse().map_err(|_| Failure::argument(format!("{ip:?} is no IP address; pass one, not a name")))?;
        let port = u16::try_from(port).map_err(|_| Failure::argument(format!("{port} is no port")))?;
        let deadline = Instant::now() + ConnectOptions::default().timeout;
        let link = self.endpoint.connect(SocketAddr::new(host, port), deadline)?;
        Ok(self.conn(link))
    }

    pub fn accept(&self, until: Instant) -> Result<Option<Conn>, Failure> {
        while self.accepting.load(Ordering::SeqCst) {
            if let Some(link) = self.endpoint.accept(until.min(Instant::now() + LOOK))? {
                return Ok(Some(self.conn(link)));
            }
            if Instant::now() >= until {
                break;
            }
        }
        Ok(None)
    }

    pub fn stop_accepting(&self) {
        self.accepting.store(false, Ordering::SeqCst);
    }

    fn conn(&self, link: Arc<Link>) -> Conn {
        Conn { endpoint: Arc::clone(&self.endpoint), cluster_id: self.cluster_id, link, transfers: Mutex::default() }
    }

    /// An item for a part of a registration, by its address.
    pub fn advertise(&self, mr: u64, address: u64, size: u64) -> Result<Item, Failure> {
        let base = self.endpoint.memory().span(mr)?.base() as u64;
        let offset =
            address.checked_sub(base).ok_or_else(|| Failure::argument("the range begins before its memory"))?;
        let advert = self.endpoint.advertise(mr, offset, size, true, ADVERT_LASTS)?;
        // The engine says when the right ends only in the grant.
        let ends = advert.grant.get(32..40).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        Item::of(&advert, address, ends).ok_or_else(|| Failure::argument("an item names less than four gigabytes"))
    }

    pub fn next_notice(&self) -> Option<Notice> {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.is_empty() {
            notices.extend(self.endpoint.notices(Instant::now()));
        }
        notices.pop_front()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.endpoint.close();
    }
}

/// A connection, as C holds it.
pub struct Conn {
    endpoint: Arc<Endpoint>,
    cluster_id: [u8; 16],
    pub link: Arc<Link>,
    transfers: Mutex<HashMap<u64, Arc<Transfer>>>,
}

impl Conn {
    /// A part of a transfer: registered memory, and what an item names.
    pub fn part(&self, mr: u64, address: u64, size: usize, item: &Item) -> Result<Part, Failure> {
        let span = self.span(mr, address, size)?;
        if size > item.size as usize {
            return Err(Failure::argument(format!("{size} bytes are more than the {} its item names", item.size)));
        }
        let (advert, offset) = item.advert(self.cluster_id, &self.link.peer.name, self.link.peer.incarnation);
        Ok(Part { advert: Arc::new(advert), offset, span })
    }

    pub fn begin(&self, direction: Direction, parts: &[Part]) -> Result<u64, Failure> {
        let bytes: u64 = parts.iter().map(|part| part.span.len() as u64).sum();
        Ok(self.keep(self.endpoint.post(&self.link, direction, parts, deadline(bytes))?))
    }

    /// Registered memory of this side's.
    fn span(&self, mr: u64, address: u64, size: usize) -> Result<Span, Failure> {
        let memory = self.endpoint.memory().span(mr)?;
        address
            .checked_sub(memory.base() as u64)
            .and_then(|offset| usize::try_from(offset).ok())
            .and_then(|offset| memory.part(offset, size))
            .ok_or_else(|| Failure::argument(format!("{size} bytes at {address:#x} are not inside registration {mr}")))
    }

    pub fn send(&self, mr: u64, address: u64, size: usize) -> Result<u64, Failure> {
        let span = self.span(mr, address, size)?;
        Ok(self.keep(self.endpoint.send(&self.link, TAG, span, deadline(size as u64))?))
    }

    /// The bytes of the peer's next send, waited for.
    pub fn receive(&self, mr: u64, address: u64, size: usize) -> Result<u64, Failure> {
        let span = self.span(mr, address, size)?;
        let transfer = self.endpoint.receive(&self.link, TAG, span, deadline(size as u64))?;
        match transfer.wait(transfer.deadline() + Duration::from_secs(1)) {
            Status::Done(bytes) => Ok(bytes),
            Status::Failed(failure) => Err(failure),
            _ => Err(Failure::closed(&self.link.peer.name)),
        }
    }

    fn keep(&self, transfer: Arc<Transfer>) -> u64 {
        let number = transfer.id();
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner).insert(number, transfer);
        number
    }

    fn transfer(&self, number: u64) -> Option<Arc<Transfer>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub fn state(&self, number: u64, wait: Duration) -> c_int {
        let Some(transfer) = self.transfer(number) else {
            return fail_with(&format!("there is no transfer {number} here"), -1);
        };
        match transfer.wait(Instant::now() + wait) {
            Status::Queued | Status::InFlight => 0,
            Status::Done(_) => 1,
            Status::Failed(failure) => fail(&failure, -1),
            Status::Cancelled => fail_with("the transfer was cancelled", -1),
        }
    }

    /// Forgets a transfer; one that is under way is cancelled first and waited for, since its memory is the caller's.
    pub fn release(&self, number: u64) {
        if let Some(transfer) = self.transfer(number) {
            self.endpoint.cancel(&transfer);
            transfer.wait(transfer.deadline() + Duration::from_secs(1));
            self.transfers.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        }
    }

    pub fn notify(&self, name: &[u8], message: &[u8]) -> Result<(), Failure> {
        let transfer = self.endpoint.notify(&self.link, name, message, deadline(message.len() as u64))?;
        match transfer.wait(transfer.deadline() + Duration::from_secs(1)) {
            Status::Done(_) => Ok(()),
            Status::Failed(failure) => Err(failure),
            _ => Err(Failure::closed(&self.link.peer.name)),
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.endpoint.disconnect(&self.link);
    }
}

fn deadline(bytes: u64) -> Instant {
    Instant::now() + Duration::from_millis(TRANSFER_MS + bytes / SLOWEST_BYTES_PER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_of_tls_that_is_missing_or_names_no_file_is_named() {
        assert!(tls(|_| String::new()).is_ok_and(|tls| tls.is_none()));
        let said = |set: &'static [&str]| {
            tls(move |variable| if set.contains(&variable) { "/no/such/file".to_owned() } else { String::new() })
                .expect_err("it should be refused")
        };
        assert!(said(&["WEFT_TLS_CA", "WEFT_TLS_KEY"]).starts_with("WEFT_TLS_CA: cannot read /no/such/file"));
        assert!(said(&["WEFT_TLS_CERT", "WEFT_TLS_KEY"]).starts_with("WEFT_TLS_CA is not set; TLS needs"));
        let all = said(&["WEFT_TLS_CA", "WEFT_TLS_CERT", "WEFT_TLS_KEY"]);
        assert!(all.starts_with("WEFT_TLS_CA: cannot read"), "{all}");
    }
}
