//! The wire between processes that each have this library: what a device's own engine would do at the other end.
//!
//! With `WEFT_FAKE_VERBS` naming a folder, each process takes a number there and answers on a socket. The number is in its
//! devices' addresses and in its queue pairs' numbers, so that whoever connects to one finds the process. A request is
//! carried out by the process whose memory is meant, on a thread of its own and under the lock that ends a registration.
//! What if that process is stopped, or gone? Its requests end as a device's do that nobody acknowledges.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use weft_verbs::ffi::layout::{IBV_WC_RETRY_EXC_ERR, IBV_WC_SUCCESS, IBV_WR_RDMA_READ};

use super::wire::wire;

/// Processes of one folder.
const PROCESSES_MAX: u32 = 127;
/// Numbers of queue pairs, keys and the rest that each has.
pub const NUMBERS_EACH: u32 = 1 << 17;
/// When a device gives a packet up that nobody acknowledges.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of a request's head and of an answer's.
const HEAD_BYTES: usize = 48;

/// A request as it crosses: everything the other end checks.
pub struct Asked {
    pub opcode: u32,
    pub from: u32,
    pub sequence: u32,
    pub to: u32,
    pub rkey: u32,
    pub address: u64,
    pub length: u64,
}

impl Asked {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        for (index, word) in [self.opcode, self.from, self.sequence, self.to, self.rkey].into_iter().enumerate() {
            head[index * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
        head[24..32].copy_from_slice(&self.address.to_le_bytes());
        head[32..40].copy_from_slice(&self.length.to_le_bytes());
        head
    }

    fn decode(head: &[u8; HEAD_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        Self {
            opcode: word(0),
            from: word(4),
            sequence: word(8),
            to: word(12),
            rkey: word(16),
            address: long(24),
            length: long(32),
        }
    }
}

/// This process's number in the folder; nothing when it is on its own.
static NUMBER: LazyLock<Option<(PathBuf, u32)>> = LazyLock::new(|| {
    let folder = PathBuf::from(std::env::var_os("WEFT_FAKE_VERBS")?);
    // The socket is the claim: only one process can bind each.
    let (number, listener) = (1..=PROCESSES_MAX)
        .find_map(|number| UnixListener::bind(folder.join(number.to_string())).ok().map(|bound| (number, bound)))?;
    std::thread::Builder::new().name("fake-verbs".to_owned()).spawn(move || answer_all(&listener)).ok()?;
    Some((folder, number))
});

static CONNECTIONS: LazyLock<Mutex<HashMap<u32, UnixStream>>> = LazyLock::new(Mutex::default);

/// This process's number; zero when it is on its own.
pub fn number() -> u32 {
    NUMBER.as_ref().map_or(0, |(_, number)| *number)
}

/// Whether a device with this address may be in another process.
pub fn is_elsewhere(gid: &[u8; 16]) -> bool {
    number() != 0 && gid[10..14] == [0xff, 0xff, 10, 99] && u32::from(gid[14]) != number()
}

/// Whose a queue pair's number is, when it is another process's.
pub fn owner_of(queue_pair: u32) -> Option<u32> {
    let owner = queue_pair / NUMBERS_EACH;
    (number() != 0 && owner != number()).then_some(owner)
}

/// Has another process carry a request out. Its status, and the bytes of a read.
pub fn ask(owner: u32, asked: &Asked, data: &[u8]) -> (u32, Vec<u8>) {
    exchange(owner, asked, data).unwrap_or((IBV_WC_RETRY_EXC_ERR, Vec::new()))
}

fn exchange(owner: u32, asked: &Asked, data: &[u8]) -> Option<(u32, Vec<u8>)> {
    // One request crosses at a time; a device keeps the order of each queue pair anyway.
    let mut connections = CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stream = match connections.remove(&owner) {
        Some(stream) => stream,
        None => {
            let (folder, _) = NUMBER.as_ref()?;
            let stream = UnixStream::connect(folder.join(owner.to_string())).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.set_write_timeout(Some(PATIENCE)).ok()?;
            stream
        }
    };
    let mut request = asked.encode().to_vec();
    request.extend_from_slice(data);
    stream.write_all(&request).ok()?;
    let mut status = [0; 4];
    stream.read_exact(&mut status).ok()?;
    let status = u32::from_le_bytes(status);
    let reads = asked.opcode == IBV_WR_RDMA_READ && status == IBV_WC_SUCCESS;
    let mut bytes = vec![0; if reads { usize::try_from(asked.length).ok()? } else { 0 }];
    stream.read_exact(&mut bytes).ok()?;
    connections.insert(owner, stream);
    Some((status, bytes))
}

fn answer_all(listener: &UnixListener) {
    for stream in listener.incoming().flatten() {
        let answering = move || {
            let mut stream = stream;
            while answer_one(&mut stream).is_some() {}
        };
        // Without a thread the connection ends, and its requests with it.
        let _ = std::thread::Builder::new().name("fake-verbs".to_owned()).spawn(answering);
    }
}

fn answer_one(stream: &mut UnixStream) -> Option<()> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).ok()?;
    let asked = Asked::decode(&head);
    let length = usize::try_from(asked.length).ok()?;
    let mut bytes = vec![0; length];
    let reads = asked.opcode == IBV_WR_RDMA_READ;
    if !reads {
        stream.read_exact(&mut bytes).ok()?;
    }
    let status = {
        let mut wire = wire();
        match super::work::permitted(&mut wire, &asked) {
            Ok(()) => {
                // SAFETY: it lies in a live registration, as was just checked under the lock that ending one takes.
                unsafe {
                    if reads {
                        std::ptr::copy(asked.address as *const u8, bytes.as_mut_ptr(), length);
                    } else {
                        std::ptr::copy(bytes.as_ptr(), asked.address as *mut u8, length);
                    }
                }
                IBV_WC_SUCCESS
            }
            Err(status) => status,
        }
    };
    stream.write_all(&status.to_le_bytes()).ok()?;
    if reads && status == IBV_WC_SUCCESS {
        stream.write_all(&bytes).ok()?;
    }
    Some(())
}
