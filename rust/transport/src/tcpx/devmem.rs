//! The source for cards that leave payload in a device's memory.
//!
//! Such a connection carries payload and nothing else: a head on it would lie in the device's memory too, where no CPU
//! reads it. What is asked for, and its answers' heads, go over another connection to the same peer. A receive brings two
//! blocks: what the device gathers from its own buffer, and what the card did not place, which the CPU carries over. Tokens
//! go back in the order of arrival, when the device's block is done and not before.
//!
//! Binding a device's buffer to a queue needs the card, its driver and `CAP_NET_ADMIN`, and is the owner's. Where none is
//! bound everything arrives linear; that is what this is tested with.

use std::io;
use std::net::TcpStream;

use weft_sys::devmem;
use weft_sys::memory::{Mapping, Span};
use weft_sys::socket::Wait;
use weft_unpack::control::{self, Sorted};
use weft_unpack::{FRAGMENTS_MAX, SLICE_BYTES_MAX};

/// A connection that receives with `MSG_SOCK_DEVMEM`.
pub struct Devmem {
    stream: TcpStream,
    device_bytes: u64,
    linear: Mapping,
    control: Vec<u64>,
}

impl Devmem {
    /// Whether the kernel can do it at all.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub fn probe() -> Result<(), String> {
        devmem::probe()
    }

    /// Over a connection whose card places payload in a buffer of `device_bytes`; the linear parts of one receive need room
    /// too, `linear_bytes` of it, whole pages.
    ///
    /// # Errors
    /// `Unsupported` by the probe, or no memory.
    pub fn new(stream: TcpStream, device_bytes: u64, linear_bytes: usize) -> io::Result<Self> {
        Self::probe().map_err(|reason| io::Error::new(io::ErrorKind::Unsupported, reason))?;
        let words = control::control_bytes(FRAGMENTS_MAX) / size_of::<u64>();
        let linear = Mapping::anonymous(linear_bytes, true)?;
        Ok(Self { stream, device_bytes, linear, control: vec![0; words] })
    }

    /// The memory that linear blocks lie in; the next receive overwrites it.
    pub fn linear(&self) -> Span {
        self.linear.span()
    }

    /// Receives what there is, for `at` and on in a target of `target_bytes`. Nothing when the peer closed.
    ///
    /// # Errors
    /// `WouldBlock`; `InvalidData` when what the kernel names contradicts itself or lies outside of its memory, after which
    /// bytes are missing and the connection is of no use.
    pub fn receive(&mut self, at: u64, target_bytes: u64, wait: Wait) -> io::Result<Option<Sorted>> {
        let room = target_bytes.saturating_sub(at).min(SLICE_BYTES_MAX).min(self.linear.len() as u64);
        let into = self.linear().part(0, usize::try_from(room).expect("bounded by the mapping")).expect("a head of it");
        let got = devmem::receive(&self.stream, &[into], &mut self.control, wait)?;
        if got.bytes == 0 {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(got.control_bytes);
        for word in &self.control[..got.control_bytes.div_ceil(size_of::<u64>())] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.truncate(got.control_bytes);
        let arrivals = control::parse(&bytes, got.control_truncated, got.bytes).map_err(invalid)?;
        let linear_bytes = self.linear.len() as u64;
        control::sort(&arrivals, at, target_bytes, self.device_bytes, linear_bytes).map_err(invalid).map(Some)
    }

    /// Gives back the tokens of blocks that the device gathered.
    ///
    /// # Errors
    /// `InvalidInput` when the kernel did not know one of them: it was given back before, or is another socket's.
    pub fn give_back(&self, tokens: &[u32]) -> io::Result<()> {
        for call in control::token_runs(tokens) {
            let runs: Vec<(u32, u32)> = call.iter().map(|run| (run.start, run.count)).collect();
            let expected: u32 = call.iter().map(|run| run.count).sum();
            let freed = devmem::give_back(&self.stream, &runs)?;
            if freed != expected as usize {
                let sentence = format!("the kernel knew {freed} of {expected} tokens that were given back");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
            }
        }
        Ok(())
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
