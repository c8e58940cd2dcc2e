//! What the fake devices of this process have, and the one lock it lies under.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use weft_verbs::ffi::layout::*;

use super::{Fault, between};

pub(super) struct FakeDevice {
    pub(super) name: CString,
    pub(super) gid: ibv_gid,
    pub(super) faults: VecDeque<(u32, Fault)>,
    pub(super) removed: bool,
    pub(super) posted: u64,
    pub(super) violations: Vec<String>,
    /// Objects alive on it, by kind.
    pub(super) alive: HashMap<&'static str, i64>,
    pub(super) events: VecDeque<u32>,
    /// Both ends of the pipe its events are told by.
    pub(super) pipe: [RawFd; 2],
}

pub(super) struct FakeQp {
    pub(super) device: usize,
    pub(super) domain: usize,
    pub(super) address: usize,
    pub(super) cq: usize,
    pub(super) state: u32,
    pub(super) attributes: ibv_qp_attr,
    pub(super) receives: VecDeque<(u64, ibv_sge)>,
}

pub(super) struct FakeMr {
    pub(super) device: usize,
    pub(super) domain: usize,
    pub(super) address: u64,
    pub(super) length: u64,
    pub(super) access: u32,
}

#[derive(Default)]
pub(super) struct FakeCq {
    pub(super) device: usize,
    pub(super) channel: usize,
    pub(super) queue: VecDeque<ibv_wc>,
    pub(super) armed: bool,
    pub(super) capacity: usize,
}

#[derive(Default)]
pub(super) struct Wire {
    pub(super) devices: Vec<FakeDevice>,
    pub(super) queue_pairs: HashMap<u32, FakeQp>,
    pub(super) memory: HashMap<u32, FakeMr>,
    pub(super) queues: HashMap<usize, FakeCq>,
    /// Channels by address: device, write end, and the queue that tells by it.
    pub(super) channels: HashMap<usize, (usize, RawFd, usize)>,
    pub(super) domains: HashMap<usize, usize>,
}

pub(super) static WIRE: LazyLock<Mutex<Wire>> = LazyLock::new(Mutex::default);
pub(super) static NEXT: AtomicU32 = AtomicU32::new(0x100);

pub(super) fn wire() -> MutexGuard<'static, Wire> {
    WIRE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn next() -> u32 {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < between::NUMBERS_EACH, "a process of tests makes fewer things");
    between::number() * between::NUMBERS_EACH + number
}

impl Wire {
    pub(super) fn count(&mut self, device: usize, kind: &'static str, change: i64) {
        *self.devices[device].alive.entry(kind).or_default() += change;
    }

    pub(super) fn violated(&mut self, device: usize, what: impl Into<String>) {
        self.devices[device].violations.push(what.into());
    }

    pub(super) fn complete(&mut self, queue: usize, completion: ibv_wc) {
        let Some(cq) = self.queues.get_mut(&queue) else { return };
        if cq.queue.len() == cq.capacity {
            let device = cq.device;
            self.violated(device, "a completion queue overflowed");
            return;
        }
        cq.queue.push_back(completion);
        if std::mem::take(&mut cq.armed) {
            let write = self.channels[&cq.channel].1;
            // SAFETY: our own pipe, open while the channel is.
            unsafe { libc::write(write, [1u8].as_ptr().cast(), 1) };
        }
    }

    /// Whether a piece of memory lies in a registration that this queue pair may use.
    pub(super) fn is_registered(&self, number: u32, element: &ibv_sge) -> bool {
        let Some(queue_pair) = self.queue_pairs.get(&number) else { return false };
        self.memory.get(&element.lkey).is_some_and(|memory| {
            memory.domain == queue_pair.domain
                && element.addr >= memory.address
                && element.addr + u64::from(element.length) <= memory.address + memory.length
        })
    }

    pub(super) fn fail(&mut self, number: u32) {
        if let Some(queue_pair) = self.queue_pairs.get_mut(&number) {
            queue_pair.state = IBV_QPS_ERR;
        }
    }
}

pub(super) fn remove(wire: &mut Wire, device: usize) {
    let entry = &mut wire.devices[device];
    if std::mem::replace(&mut entry.removed, true) {
        return;
    }
    entry.events.push_back(IBV_EVENT_DEVICE_FATAL);
    // SAFETY: our own pipe.
    unsafe { libc::write(entry.pipe[1], [1u8].as_ptr().cast(), 1) };
    let numbers: Vec<u32> =
        wire.queue_pairs.iter().filter(|(_, qp)| qp.device == device).map(|(number, _)| *number).collect();
    for number in numbers {
        wire.fail(number);
    }
}
