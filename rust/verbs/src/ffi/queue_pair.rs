//! One end of a reliable connection.
//!
//! ```text
//! reset ──► init ──► ready to receive ──► ready to send
//!   └────────┴──────────────┴──────────────────┴──► failed      (whatever is outstanding is flushed)
//! ```
//!
//! A transition names exactly the attributes the standard asks for; a provider refuses one too many as well as one too
//! few. After a failure nothing leaves: a queue pair is not repaired but replaced.

use std::ffi::c_int;
use std::sync::Arc;

use super::completions::CompletionQueue;
use super::device::Domain;
use super::layout::*;
use super::memory::MemoryRegion;
use crate::VerbsError;

/// How long a packet waits for its acknowledgement: 4.096 µs × 2¹⁴ = 67 ms, and the device at least doubles it.
const TIMEOUT_EXPONENT: u8 = 14;
/// How often a packet is sent again before the peer counts as gone: with the above half a second to four seconds, which is
/// within the shortest deadline anything has. Not seven: the kernel's software RoCE takes that for ever.
const RETRIES: u8 = 6;
/// How often a peer without a posted receive is asked again. Seven would mean for ever.
const NOT_READY_RETRIES: u8 = 6;
/// How long it asks to be left alone: 0.64 ms.
const NOT_READY_TIMER: u8 = 12;
/// Routers a packet may cross.
const HOPS_MAX: u8 = 64;
/// Mask of what a queue pair or sequence number may be.
const NUMBER_MASK: u32 = 0xff_ffff;

/// Where a queue pair stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Fresh.
    Reset,
    /// Takes receives.
    Init,
    /// Answers its peer.
    ReadyToReceive,
    /// Asks its peer.
    ReadyToSend,
    /// Over.
    Failed,
}

/// What a queue pair has room for.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Work posted and not completed.
    pub work: u32,
    /// Receives posted and not completed.
    pub receives: u32,
    /// Bytes that may travel inside a work request; the provider may give more.
    pub inline_bytes: u32,
    /// Whether it answers the peer's reads and writes, or only asks.
    pub answers: bool,
}

/// The other end, as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its queue pair's number, 24 bits.
    pub queue_pair: u32,
    /// The sequence number it starts at, 24 bits.
    pub sequence: u32,
    /// Its address in the subnet.
    pub lid: u16,
    /// Its global address.
    pub gid: [u8; 16],
    /// Its path MTU, as the library's number.
    pub mtu: u32,
    /// Reads this side may have outstanding there.
    pub reads_in_max: u8,
    /// Reads it will have outstanding here.
    pub reads_out_max: u8,
}

/// What a piece of work does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Brings bytes of the peer here.
    Read {
        /// Where they lie there.
        address: u64,
        /// The key to them.
        key: u32,
    },
    /// Takes bytes to the peer.
    Write {
        /// Where they go there.
        address: u64,
        /// The key to that.
        key: u32,
        /// Not before every read posted earlier is done: the network alone promises no such order.
        after_reads: bool,
    },
    /// Takes bytes into a receive the peer posted.
    Send,
}

/// A piece of work on a part of registered memory of this side.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// The poster's name for it.
    pub id: u64,
    /// What it does.
    pub verb: Verb,
    /// This side's memory.
    pub memory: &'a MemoryRegion,
    /// First byte of the part.
    pub offset: usize,
    /// Its length.
    pub length: usize,
}

/// A queue pair.
pub struct QueuePair {
    domain: Arc<Domain>,
    _completions: Arc<CompletionQueue>,
    qp: *mut ibv_qp,
    state: State,
    sequence: u32,
    inline_bytes: usize,
}

// SAFETY: the queue pair is used through `&mut`, by one thread at a time, which is more than the library asks.
unsafe impl Send for QueuePair {}

impl QueuePair {
    /// A queue pair in `Init`, which starts counting at `sequence`. All its work is told to `completions`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(
        domain: &Arc<Domain>,
        completions: &Arc<CompletionQueue>,
        bounds: Bounds,
        sequence: u32,
    ) -> Result<Self, VerbsError> {
        let mut wanted = ibv_qp_init_attr {
            qp_context: std::ptr::null_mut(),
            send_cq: completions.cq,
            recv_cq: completions.cq,
            srq: std::ptr::null_mut(),
            cap: ibv_qp_cap {
                max_send_wr: bounds.work,
                max_recv_wr: bounds.receives,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: bounds.inline_bytes,
            },
            qp_type: IBV_QPT_RC,
            sq_sig_all: 0,
        };
        let create = domain.device.library.table.create_qp;
        // SAFETY: domain and queue are live, the attributes too; the provider writes back what it gives.
        let mut qp = unsafe { create(domain.pd, &raw mut wanted) };
        if qp.is_null() && bounds.inline_bytes > 0 {
            // Some devices take no inline data at all, and refuse rather than give less.
            wanted.cap.max_inline_data = 0;
            // SAFETY: as above.
            qp = unsafe { create(domain.pd, &raw mut wanted) };
        }
        if qp.is_null() {
            return Err(VerbsError::last("making a queue pair"));
        }
        let mut made = Self {
            domain: Arc::clone(domain),
            _completions: Arc::clone(completions),
            qp,
            state: State::Reset,
            sequence: sequence & NUMBER_MASK,
            inline_bytes: wanted.cap.max_inline_data as usize,
        };
        let mut attributes = ibv_qp_attr {
            qp_state: IBV_QPS_INIT,
            pkey_index: 0,
            port_num: domain.device.port().number,
            qp_access_flags: if bounds.answers {
                IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE
            } else {
                IBV_ACCESS_LOCAL_WRITE
            },
            ..ibv_qp_attr::default()
        };
        made.modify(&mut attributes, MASK_INIT, "bringing a queue pair to init")?;
        made.state = State::Init;
        Ok(made)
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        // SAFETY: live until dropped.
        unsafe { (*self.qp).qp_num }
    }

    /// The sequence number it starts at.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Largest part that travels inside a work request.
    pub fn inline_bytes(&self) -> usize {
        self.inline_bytes
    }

    /// Connects it to `remote`, and returns ready to ask and to answer. Receives that the peer will use at once must be
    /// posted before.
    ///
    /// # Errors
    /// `State` unless it is in `Init`; what the kernel says of an address it cannot reach.
    pub fn connect(&mut self, remote: &Remote) -> Result<(), VerbsError> {
        if self.state != State::Init {
            return Err(VerbsError::State(format!("a queue pair connects once, this one is {:?}", self.state)));
        }
        let port = *self.domain.device.port();
        let mut address = ibv_ah_attr { dlid: remote.lid, port_num: port.number, ..ibv_ah_attr::default() };
        // In a subnet the LID is enough; across subnets, and over Ethernet always, the global address is what routes.
        if port.is_ethernet || remote.lid == 0 || remote.gid[..8] != port.gid[..8] {
            address.is_global = 1;
            address.grh = ibv_global_route {
                dgid: AlignedGid(remote.gid),
                flow_label: 0,
                sgid_index: port.gid_index,
                hop_limit: HOPS_MAX,
                traffic_class: 0,
            };
        }
        let mut attributes = ibv_qp_attr {
            qp_state: IBV_QPS_RTR,
            path_mtu: port.mtu.min(remote.mtu.clamp(1, 5)),
            dest_qp_num: remote.queue_pair & NUMBER_MASK,
            rq_psn: remote.sequence & NUMBER_MASK,
            max_dest_rd_atomic: port.reads_in_max.min(remote.reads_out_max.max(1)),
            min_rnr_timer: NOT_READY_TIMER,
            ah_attr: address,
            ..ibv_qp_attr::default()
        };
        self.modify(&mut attributes, MASK_RTR, "bringing a queue pair to ready-to-receive")?;
        self.state = State::ReadyToReceive;
        let mut attributes = ibv_qp_attr {
            qp_state: IBV_QPS_RTS,
            sq_psn: self.sequence,
            timeout: TIMEOUT_EXPONENT,
            retry_cnt: RETRIES,
            rnr_retry: NOT_READY_RETRIES,
            max_rd_atomic: self.reads_out_max(remote),
            ..ibv_qp_attr::default()
        };
        self.modify(&mut attributes, MASK_RTS, "bringing a queue pair to ready-to-send")?;
        self.state = State::ReadyToSend;
        Ok(())
    }

    /// Reads this side may have outstanding at `remote`.
    pub fn reads_out_max(&self, remote: &Remote) -> u8 {
        self.domain.device.port().reads_out_max.min(remote.reads_in_max.max(1))
    }

    /// Posts a piece of work. It is told when done, and the part of the memory is the device's until then.
    ///
    /// # Errors
    /// `State` unless it is ready to send; `Memory` for a part outside the registration; what the provider says of a full
    /// queue.
    pub fn post(&mut self, work: &Work<'_>) -> Result<(), VerbsError> {
        if self.state != State::ReadyToSend {
            return Err(VerbsError::State(format!("work was posted to a queue pair that is {:?}", self.state)));
        }
        let mut element = part(work.memory, work.offset, work.length)?;
        let (opcode, mut flags, remote_addr, rkey) = match work.verb {
            Verb::Read { address, key } => (IBV_WR_RDMA_READ, 0, address, key),
            Verb::Write { address, key, after_reads } => {
                (IBV_WR_RDMA_WRITE, if after_reads { IBV_SEND_FENCE } else { 0 }, address, key)
            }
            Verb::Send => (IBV_WR_SEND, 0, 0, 0),
        };
        flags |= IBV_SEND_SIGNALED;
        if opcode != IBV_WR_RDMA_READ && work.length <= self.inline_bytes {
            flags |= IBV_SEND_INLINE;
        }
        let mut request = ibv_send_wr {
            wr_id: work.id,
            next: std::ptr::null_mut(),
            sg_list: &raw mut element,
            num_sge: 1,
            opcode,
            send_flags: flags,
            imm_data: 0,
            remote_addr,
            rkey,
            unused: [0; 9],
        };
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair is live and its context's table filled in; request and element are read during the call
        // only. The part lies within memory that stays registered while `work.memory` lives, which whoever posts keeps
        // until the work was told or this queue pair is gone.
        let rc = unsafe {
            let post = (*(*self.qp).context).ops.post_send.expect("providers fill in post_send");
            post(self.qp, &raw mut request, &raw mut refused)
        };
        if rc == 0 { Ok(()) } else { Err(VerbsError::returned("posting work", rc)) }
    }

    /// Posts a receive for one `Send` of the peer.
    ///
    /// # Errors
    /// As [`QueuePair::post`]; it may be in any state between init and ready to send.
    pub fn post_receive(
        &mut self,
        id: u64,
        memory: &MemoryRegion,
        offset: usize,
        length: usize,
    ) -> Result<(), VerbsError> {
        if matches!(self.state, State::Reset | State::Failed) {
            return Err(VerbsError::State(format!("a receive was posted to a queue pair that is {:?}", self.state)));
        }
        let mut element = part(memory, offset, length)?;
        let mut request = ibv_recv_wr { wr_id: id, next: std::ptr::null_mut(), sg_list: &raw mut element, num_sge: 1 };
        let mut refused = std::ptr::null_mut();
        // SAFETY: as in `post`.
        let rc = unsafe {
            let post = (*(*self.qp).context).ops.post_recv.expect("providers fill in post_recv");
            post(self.qp, &raw mut request, &raw mut refused)
        };
        if rc == 0 { Ok(()) } else { Err(VerbsError::returned("posting a receive", rc)) }
    }

    /// Ends it: nothing of it leaves or lands from here on, and what is outstanding is flushed. Twice is once.
    pub fn fail(&mut self) {
        if self.state != State::Failed {
            let mut attributes = ibv_qp_attr { qp_state: IBV_QPS_ERR, ..ibv_qp_attr::default() };
            // A device that is gone refuses, and has ended it already.
            let _ = self.modify(&mut attributes, IBV_QP_STATE, "ending a queue pair");
            self.state = State::Failed;
        }
    }

    fn modify(&mut self, attributes: &mut ibv_qp_attr, mask: c_int, doing: &'static str) -> Result<(), VerbsError> {
        // SAFETY: the queue pair is live, and the attributes for the time of the call.
        let rc = unsafe { (self.domain.device.library.table.modify_qp)(self.qp, &raw mut *attributes, mask) };
        if rc == 0 { Ok(()) } else { Err(VerbsError::returned(doing, rc)) }
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: made by us, destroyed once. The call returns when the device touches none of its memory any more.
        unsafe { (self.domain.device.library.table.destroy_qp)(self.qp) };
    }
}

fn part(memory: &MemoryRegion, offset: usize, length: usize) -> Result<ibv_sge, VerbsError> {
    let span = memory.span().part(offset, length).filter(|span| u32::try_from(span.len()).is_ok());
    let Some(span) = span else {
        return Err(VerbsError::Memory(format!(
            "bytes {offset}..{} are outside a registration of {} bytes",
            offset.saturating_add(length),
            memory.span().len()
        )));
    };
    Ok(ibv_sge {
        addr: span.base() as u64,
        length: u32::try_from(span.len()).expect("checked above"),
        lkey: memory.local_key(),
    })
}
