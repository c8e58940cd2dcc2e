//! What a process has of RDMA: one device, one domain, and what is said about it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::VerbsError;
use crate::ffi::{Device, DeviceEvent, Domain, Library, Remote};

/// Sentences kept for whoever logs them; the oldest go first.
const SENTENCES_MAX: usize = 64;

/// Which library and which device.
#[derive(Clone, Debug, Default)]
pub struct RailOptions {
    /// The library's file; none for the system's own.
    pub library: Option<PathBuf>,
    /// The device's name; none for the first that is up.
    pub device: Option<String>,
}

/// What moved over RDMA, and what did not.
#[derive(Debug, Default)]
pub struct RailCounters {
    /// Connections that were upgraded.
    pub upgrades: AtomicU64,
    /// Times a connection went back to TCP.
    pub fallbacks: AtomicU64,
    /// Bytes read.
    pub read_bytes: AtomicU64,
    /// Bytes written.
    pub written_bytes: AtomicU64,
}

/// One device in use.
pub struct Rail {
    domain: Arc<Domain>,
    lost: AtomicBool,
    sentences: Mutex<VecDeque<String>>,
    /// What it counted.
    pub counters: RailCounters,
}

impl Rail {
    /// Opens a device.
    ///
    /// # Errors
    /// `Unavailable` on the usual machine, which has none.
    pub fn open(options: &RailOptions) -> Result<Arc<Self>, VerbsError> {
        Self::over(&Library::load(options.library.as_deref())?, options.device.as_deref())
    }

    /// Opens a device of a library that is loaded.
    ///
    /// # Errors
    /// As [`Rail::open`].
    pub fn over(library: &Arc<Library>, device: Option<&str>) -> Result<Arc<Self>, VerbsError> {
        let domain = Domain::new(&Device::open(library, device)?)?;
        Ok(Arc::new(Self {
            domain,
            lost: AtomicBool::new(false),
            sentences: Mutex::default(),
            counters: RailCounters::default(),
        }))
    }

    /// The domain.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        self.domain.device()
    }

    /// This end, as the other must know it.
    pub fn side(&self, queue_pair: u32, sequence: u32) -> Remote {
        let port = self.device().port();
        Remote {
            queue_pair,
            sequence,
            lid: port.lid,
            gid: port.gid,
            mtu: port.mtu,
            reads_in_max: port.reads_in_max,
            reads_out_max: port.reads_out_max,
        }
    }

    /// Takes in what the device said of itself.
    ///
    /// # Errors
    /// `DeviceLost` once it is gone for good, or its port is down.
    pub fn check(&self) -> Result<(), VerbsError> {
        while let Some(event) = self.device().next_event() {
            match event {
                DeviceEvent::Fatal | DeviceEvent::PortDown => self.lost.store(true, Ordering::Release),
                DeviceEvent::PortUp => self.lost.store(false, Ordering::Release),
                DeviceEvent::AddressChanged | DeviceEvent::QueuePair | DeviceEvent::Other(_) => continue,
            }
            self.say(format!("RDMA device {}: {event:?}", self.device().name()));
        }
        if self.lost.load(Ordering::Acquire) {
            return Err(VerbsError::DeviceLost(format!("{} failed or its port is down", self.device().name())));
        }
        Ok(())
    }

    /// A sequence number nobody guesses: packets of an older connection with the same numbers are then not this one's.
    ///
    /// # Errors
    /// Without randomness.
    pub fn sequence(&self) -> Result<u32, VerbsError> {
        random().map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]))
    }

    /// Remembers a sentence for whoever logs.
    pub fn say(&self, sentence: String) {
        let mut sentences = self.sentences.lock().unwrap_or_else(PoisonError::into_inner);
        if sentences.len() == SENTENCES_MAX {
            sentences.pop_front();
        }
        sentences.push_back(sentence);
    }

    /// What was said since it was last asked.
    pub fn said(&self) -> Vec<String> {
        self.sentences.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// Eight random bytes.
pub fn random() -> Result<[u8; 8], VerbsError> {
    let mut bytes = [0; 8];
    weft_sys::random::fill(&mut bytes).map_err(|cause| VerbsError::Call { doing: "drawing random bytes", cause })?;
    Ok(bytes)
}
