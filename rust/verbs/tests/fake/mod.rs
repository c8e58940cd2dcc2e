//! A verbs library that is none: devices of this process, joined by a wire that is a copy of memory.
//!
//! It keeps libibverbs' contracts and checks that its user does: which attributes a transition names, in which order things
//! are posted and destroyed, that keys fit the memory. What a user does wrong is a *violation*, kept until a test asks. And
//! it fails on request: a device is told after how many more pieces of work something happens.
//!
//! Devices of one process are joined by its memory; those of several by `between`, where `WEFT_FAKE_VERBS` says so.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "one contract for all of them, above the first")]

mod between;

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use between::Asked;
use weft_verbs::ffi::layout::*;
use weft_verbs::ffi::{Library, Table};

/// What happens to a piece of work, or to the device at its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends with this status, carried out or not: nobody can tell.
    Ends(u32),
    /// As above, and it was carried out.
    EndsAfter(u32),
    /// It is carried out, and nobody is told.
    Silent,
    /// It is not even taken.
    Refused(i32),
    /// The device is pulled out.
    Removed,
}

struct FakeDevice {
    name: CString,
    gid: ibv_gid,
    faults: VecDeque<(u32, Fault)>,
    removed: bool,
    posted: u64,
    violations: Vec<String>,
    /// Objects alive on it, by kind.
    alive: HashMap<&'static str, i64>,
    events: VecDeque<u32>,
    /// Both ends of the pipe its events are told by.
    pipe: [RawFd; 2],
}

struct FakeQp {
    device: usize,
    domain: usize,
    address: usize,
    cq: usize,
    state: u32,
    attributes: ibv_qp_attr,
    receives: VecDeque<(u64, ibv_sge)>,
}

struct FakeMr {
    device: usize,
    domain: usize,
    address: u64,
    length: u64,
    access: u32,
}

#[derive(Default)]
struct FakeCq {
    device: usize,
    channel: usize,
    queue: VecDeque<ibv_wc>,
    armed: bool,
    capacity: usize,
}

#[derive(Default)]
struct Wire {
    devices: Vec<FakeDevice>,
    queue_pairs: HashMap<u32, FakeQp>,
    memory: HashMap<u32, FakeMr>,
    queues: HashMap<usize, FakeCq>,
    /// Channels by address: device, write end, and the queue that tells by it.
    channels: HashMap<usize, (usize, RawFd, usize)>,
    domains: HashMap<usize, usize>,
}

static WIRE: LazyLock<Mutex<Wire>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU32 = AtomicU32::new(0x100);

fn wire() -> MutexGuard<'static, Wire> {
    WIRE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next() -> u32 {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < between::NUMBERS_EACH, "a process of tests makes fewer things");
    between::number() * between::NUMBERS_EACH + number
}

impl Wire {
    fn count(&mut self, device: usize, kind: &'static str, change: i64) {
        *self.devices[device].alive.entry(kind).or_default() += change;
    }

    fn violated(&mut self, device: usize, what: impl Into<String>) {
        self.devices[device].violations.push(what.into());
    }

    fn complete(&mut self, queue: usize, completion: ibv_wc) {
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
    fn is_registered(&self, number: u32, element: &ibv_sge) -> bool {
        let Some(queue_pair) = self.queue_pairs.get(&number) else { return false };
        self.memory.get(&element.lkey).is_some_and(|memory| {
            memory.domain == queue_pair.domain
                && element.addr >= memory.address
                && element.addr + u64::from(element.length) <= memory.address + memory.length
        })
    }

    fn fail(&mut self, number: u32) {
        if let Some(queue_pair) = self.queue_pairs.get_mut(&number) {
            queue_pair.state = IBV_QPS_ERR;
        }
    }
}

/// A device of the fake library.
pub struct Fake {
    index: usize,
    /// Its name.
    pub name: String,
}

impl Fake {
    /// Plugs a device in.
    pub fn plug_in() -> Self {
        let mut pipe = [0; 2];
        // SAFETY: two descriptors are written.
        assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) }, 0);
        let mut wire = wire();
        let index = wire.devices.len();
        let name = format!("fake{index}");
        let mut gid = [0; 16];
        gid[10..12].fill(0xff);
        let process = u8::try_from(between::number()).unwrap();
        gid[12..].copy_from_slice(&[
            10,
            99,
            process | u8::try_from(index >> 8).unwrap(),
            u8::try_from(index & 255).unwrap(),
        ]);
        wire.devices.push(FakeDevice {
            name: CString::new(name.clone()).unwrap(),
            gid,
            faults: VecDeque::new(),
            removed: false,
            posted: 0,
            violations: Vec::new(),
            alive: HashMap::new(),
            events: VecDeque::new(),
            pipe,
        });
        Self { index, name }
    }

    /// The library.
    pub fn library() -> Arc<Library> {
        // SAFETY: the functions below keep the contracts.
        unsafe { Library::from_table(table()) }
    }

    /// Lets `fault` happen after `posts` more pieces of work.
    pub fn inject(&self, posts: u32, fault: Fault) {
        wire().devices[self.index].faults.push_back((posts, fault));
    }

    /// Pulls the device out now.
    pub fn remove(&self) {
        remove(&mut wire(), self.index);
    }

    /// Pieces of work posted so far.
    pub fn posted(&self) -> u64 {
        wire().devices[self.index].posted
    }

    /// What its user did wrong so far.
    pub fn violations(&self) -> Vec<String> {
        wire().devices[self.index].violations.clone()
    }

    /// Objects that are still there.
    pub fn alive(&self) -> Vec<(&'static str, i64)> {
        let wire = wire();
        let mut alive: Vec<_> = wire.devices[self.index]
            .alive
            .iter()
            .map(|(kind, count)| (*kind, *count))
            .filter(|(_, n)| *n != 0)
            .collect();
        alive.sort_unstable();
        alive
    }
}

/// What users of all devices did wrong so far.
pub fn all_violations() -> Vec<String> {
    wire().devices.iter().flat_map(|device| device.violations.clone()).collect()
}

fn remove(wire: &mut Wire, device: usize) {
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

/// A transition's exact mask, for a reliable connection.
fn mask_of(from: u32, to: u32) -> Option<c_int> {
    match (from, to) {
        (IBV_QPS_RESET, IBV_QPS_INIT) => Some(0x39),
        (IBV_QPS_INIT, IBV_QPS_RTR) => Some(0x12_9181),
        (IBV_QPS_RTR, IBV_QPS_RTS) => Some(0x1_2e01),
        (_, IBV_QPS_ERR) => Some(1),
        _ => None,
    }
}

#[repr(C)]
struct Context {
    context: ibv_context,
    device: usize,
}

// All functions below are called with what this table returned before and nobody destroyed, and with live arguments: that
// is libibverbs' contract, and every unsafe block of them rests on it.

unsafe fn device_of(context: *mut ibv_context) -> usize {
    unsafe { (*context.cast::<Context>()).device }
}

unsafe extern "C" fn get_device_list(count: *mut c_int) -> *mut *mut ibv_device {
    let there: Vec<usize> = {
        let wire = wire();
        (0..wire.devices.len()).filter(|index| !wire.devices[*index].removed).collect()
    };
    // A device's pointer is its number, never looked into; one more than it, so that none is null.
    let mut list: Vec<*mut ibv_device> = there.iter().map(|index| (index + 1) as *mut ibv_device).collect();
    list.push(std::ptr::null_mut());
    unsafe { *count = c_int::try_from(there.len()).unwrap() };
    Box::into_raw(list.into_boxed_slice()).cast()
}

unsafe extern "C" fn free_device_list(list: *mut *mut ibv_device) {
    let mut count = 0;
    unsafe {
        while !(*list.add(count)).is_null() {
            count += 1;
        }
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(list, count + 1)));
    }
}

unsafe extern "C" fn get_device_name(device: *mut ibv_device) -> *const c_char {
    wire().devices[device as usize - 1].name.as_ptr()
}

unsafe extern "C" fn open_device(device: *mut ibv_device) -> *mut ibv_context {
    let index = device as usize - 1;
    let mut wire = wire();
    if wire.devices[index].removed {
        return std::ptr::null_mut();
    }
    wire.count(index, "context", 1);
    let ops = ibv_context_ops {
        before_poll: [std::ptr::null_mut(); 11],
        poll_cq: Some(poll_cq),
        req_notify_cq: Some(req_notify_cq),
        between: [std::ptr::null_mut(); 12],
        post_send: Some(post_send),
        post_recv: Some(post_recv),
        after: [std::ptr::null_mut(); 5],
    };
    let async_fd = wire.devices[index].pipe[0];
    let context = ibv_context { device, ops, cmd_fd: -1, async_fd, num_comp_vectors: 1 };
    Box::into_raw(Box::new(Context { context, device: index })).cast()
}

unsafe extern "C" fn close_device(context: *mut ibv_context) -> c_int {
    let context = unsafe { Box::from_raw(context.cast::<Context>()) };
    let mut wire = wire();
    wire.count(context.device, "context", -1);
    for kind in ["domain", "memory", "queue", "channel", "queue pair"] {
        if wire.devices[context.device].alive.get(kind).is_some_and(|count| *count != 0) {
            wire.violated(context.device, format!("a device was closed while it had a {kind}"));
        }
    }
    0
}

unsafe extern "C" fn query_device(_: *mut ibv_context, attributes: *mut ibv_device_attr) -> c_int {
    unsafe {
        (*attributes).max_qp_wr = 1024;
        (*attributes).max_qp_rd_atom = 16;
        (*attributes).max_qp_init_rd_atom = 4;
        (*attributes).phys_port_cnt = 2;
    }
    0
}

unsafe extern "C" fn query_port(context: *mut ibv_context, port: u8, attributes: *mut ibv_port_attr) -> c_int {
    let up = port == 2 && !wire().devices[unsafe { device_of(context) }].removed;
    let state = if up { IBV_PORT_ACTIVE } else { 1 };
    unsafe {
        *attributes = ibv_port_attr {
            state,
            active_mtu: IBV_MTU_1024,
            gid_tbl_len: 3,
            link_layer: IBV_LINK_LAYER_ETHERNET,
            ..ibv_port_attr::default()
        };
    }
    0
}

unsafe extern "C" fn query_gid(context: *mut ibv_context, _: u8, index: c_int, gid: *mut ibv_gid) -> c_int {
    let real = wire().devices[unsafe { device_of(context) }].gid;
    unsafe { *gid = if index == 0 { [0xfe; 16] } else { real } };
    0
}

unsafe extern "C" fn query_gid_table(
    context: *mut ibv_context,
    entries: *mut ibv_gid_entry,
    room: usize,
    _: u32,
    size: usize,
) -> isize {
    assert!(room >= 3 && size == std::mem::size_of::<ibv_gid_entry>());
    let real = wire().devices[unsafe { device_of(context) }].gid;
    // The first is of another kind, the second of RoCE v1: only the third will do.
    for (index, (gid, kind)) in [([0xfe; 16], 1), (real, 1), (real, IBV_GID_TYPE_ROCE_V2)].into_iter().enumerate() {
        let gid_index = u32::try_from(index).unwrap();
        unsafe {
            *entries.add(index) =
                ibv_gid_entry { gid: AlignedGid(gid), gid_index, port_num: 2, gid_type: kind, ndev_ifindex: 0 };
        }
    }
    3
}

unsafe extern "C" fn alloc_pd(context: *mut ibv_context) -> *mut ibv_pd {
    let device = unsafe { device_of(context) };
    let mut wire = wire();
    wire.count(device, "domain", 1);
    let domain = next() as usize;
    wire.domains.insert(domain, device);
    domain as *mut ibv_pd
}

unsafe extern "C" fn dealloc_pd(pd: *mut ibv_pd) -> c_int {
    let mut wire = wire();
    let device = wire.domains.remove(&(pd as usize)).expect("a domain is given back once");
    wire.count(device, "domain", -1);
    let used = wire.memory.values().any(|memory| memory.domain == pd as usize)
        || wire.queue_pairs.values().any(|queue_pair| queue_pair.domain == pd as usize);
    if used {
        wire.violated(device, "a domain was given back while it had memory or queue pairs");
    }
    0
}

unsafe extern "C" fn reg_mr(pd: *mut ibv_pd, address: *mut c_void, length: usize, access: c_int) -> *mut ibv_mr {
    let mut wire = wire();
    let device = wire.domains[&(pd as usize)];
    let access = u32::try_from(access).unwrap();
    if wire.devices[device].removed {
        return std::ptr::null_mut();
    }
    if access & IBV_ACCESS_REMOTE_WRITE != 0 && access & IBV_ACCESS_LOCAL_WRITE == 0 {
        wire.violated(device, "memory was registered for remote writing and not for local writing");
        return std::ptr::null_mut();
    }
    wire.count(device, "memory", 1);
    // One key for both sides would hide a mistake between them.
    let (lkey, rkey) = (next(), next() | 0x8000_0000);
    let entry = || FakeMr { device, domain: pd as usize, address: address as u64, length: length as u64, access };
    wire.memory.insert(lkey, entry());
    wire.memory.insert(rkey, entry());
    Box::into_raw(Box::new(ibv_mr { context: std::ptr::null_mut(), pd, addr: address, length, handle: 0, lkey, rkey }))
}

unsafe extern "C" fn dereg_mr(mr: *mut ibv_mr) -> c_int {
    let mr = unsafe { Box::from_raw(mr) };
    let mut wire = wire();
    let memory = wire.memory.remove(&mr.lkey).expect("memory is given back once");
    wire.memory.remove(&mr.rkey);
    wire.count(memory.device, "memory", -1);
    0
}

unsafe extern "C" fn create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel {
    let device = unsafe { device_of(context) };
    let mut pipe = [0; 2];
    assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    let channel = Box::into_raw(Box::new(ibv_comp_channel { context, fd: pipe[0], refcnt: 0 }));
    let mut wire = wire();
    wire.count(device, "channel", 1);
    wire.channels.insert(channel as usize, (device, pipe[1], 0));
    channel
}

unsafe extern "C" fn destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int {
    let mut wire = wire();
    let (device, write, _) = wire.channels.remove(&(channel as usize)).expect("a channel is destroyed once");
    wire.count(device, "channel", -1);
    if wire.queues.values().any(|queue| queue.channel == channel as usize) {
        wire.violated(device, "a channel was destroyed before its queue");
    }
    unsafe {
        libc::close((*channel).fd);
        libc::close(write);
        drop(Box::from_raw(channel));
    }
    0
}

unsafe extern "C" fn create_cq(
    context: *mut ibv_context,
    entries: c_int,
    _: *mut c_void,
    channel: *mut ibv_comp_channel,
    _: c_int,
) -> *mut ibv_cq {
    let device = unsafe { device_of(context) };
    let cq = Box::into_raw(Box::new(ibv_cq { context }));
    let mut wire = wire();
    wire.count(device, "queue", 1);
    let capacity = usize::try_from(entries).unwrap();
    wire.queues.insert(cq as usize, FakeCq { device, channel: channel as usize, capacity, ..FakeCq::default() });
    wire.channels.get_mut(&(channel as usize)).expect("a live channel").2 = cq as usize;
    cq
}

unsafe extern "C" fn destroy_cq(cq: *mut ibv_cq) -> c_int {
    let mut wire = wire();
    let queue = wire.queues.remove(&(cq as usize)).expect("a queue is destroyed once");
    wire.count(queue.device, "queue", -1);
    if wire.queue_pairs.values().any(|queue_pair| queue_pair.cq == cq as usize) {
        wire.violated(queue.device, "a completion queue was destroyed before its queue pairs");
    }
    drop(unsafe { Box::from_raw(cq) });
    0
}

unsafe extern "C" fn get_cq_event(channel: *mut ibv_comp_channel, cq: *mut *mut ibv_cq, _: *mut *mut c_void) -> c_int {
    let mut byte = 0u8;
    if unsafe { libc::read((*channel).fd, (&raw mut byte).cast(), 1) } != 1 {
        return -1;
    }
    unsafe { *cq = wire().channels[&(channel as usize)].2 as *mut ibv_cq };
    0
}

unsafe extern "C" fn ack_cq_events(_: *mut ibv_cq, _: u32) {}

unsafe extern "C" fn create_qp(pd: *mut ibv_pd, attributes: *mut ibv_qp_init_attr) -> *mut ibv_qp {
    let mut wire = wire();
    let device = wire.domains[&(pd as usize)];
    let wanted = unsafe { &mut *attributes };
    if wire.devices[device].removed || wanted.qp_type != IBV_QPT_RC {
        return std::ptr::null_mut();
    }
    wire.count(device, "queue pair", 1);
    let qp_num = next();
    wanted.cap.max_inline_data = wanted.cap.max_inline_data.max(64);
    let context = unsafe { (*wanted.send_cq).context };
    let qp = Box::into_raw(Box::new(ibv_qp {
        context,
        qp_context: std::ptr::null_mut(),
        pd,
        send_cq: wanted.send_cq,
        recv_cq: wanted.recv_cq,
        srq: std::ptr::null_mut(),
        handle: 0,
        qp_num,
    }));
    let made = FakeQp {
        device,
        domain: pd as usize,
        address: qp as usize,
        cq: wanted.send_cq as usize,
        state: IBV_QPS_RESET,
        attributes: ibv_qp_attr::default(),
        receives: VecDeque::new(),
    };
    wire.queue_pairs.insert(qp_num, made);
    qp
}

unsafe extern "C" fn modify_qp(qp: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int) -> c_int {
    let (number, new) = unsafe { ((*qp).qp_num, &*attributes) };
    let mut wire = wire();
    let queue_pair = &wire.queue_pairs[&number];
    let (device, from) = (queue_pair.device, queue_pair.state);
    if wire.devices[device].removed {
        return libc::EIO;
    }
    if mask_of(from, new.qp_state) != Some(mask) {
        wire.violated(device, format!("transition {from} to {} named {mask:#x}", new.qp_state));
        return libc::EINVAL;
    }
    let address = &new.ah_attr;
    let wrong = match new.qp_state {
        IBV_QPS_INIT if new.port_num != 2 => Some("init on a port that is not up"),
        IBV_QPS_RTR if new.dest_qp_num >> 24 != 0 || new.rq_psn >> 24 != 0 => Some("numbers of more than 24 bits"),
        IBV_QPS_RTR if !(1..=IBV_MTU_1024).contains(&new.path_mtu) => Some("a path MTU the port does not have"),
        IBV_QPS_RTR if new.max_dest_rd_atomic == 0 || new.max_dest_rd_atomic > 16 => Some("reads beyond the device"),
        IBV_QPS_RTR if address.is_global != 1 => Some("no global address over Ethernet"),
        IBV_QPS_RTR if address.grh.sgid_index != 2 => Some("a GID that is not RoCE v2"),
        IBV_QPS_RTR if address.port_num != 2 || address.grh.hop_limit == 0 => Some("an address without port or hops"),
        IBV_QPS_RTS if new.sq_psn >> 24 != 0 => Some("a sequence number of more than 24 bits"),
        IBV_QPS_RTS if new.max_rd_atomic == 0 || new.max_rd_atomic > 4 => Some("reads out beyond the device"),
        IBV_QPS_RTS if new.retry_cnt >= 7 || new.rnr_retry >= 7 || new.timeout == 0 => Some("a wait without an end"),
        _ => None,
    };
    if let Some(wrong) = wrong {
        wire.violated(device, wrong);
        return libc::EINVAL;
    }
    let known = |gid: &ibv_gid| between::is_elsewhere(gid) || wire.devices.iter().any(|device| device.gid == *gid);
    if new.qp_state == IBV_QPS_RTR && !known(&address.grh.dgid.0) {
        return libc::ENETUNREACH;
    }
    let queue_pair = wire.queue_pairs.get_mut(&number).expect("seen above");
    match new.qp_state {
        IBV_QPS_INIT => queue_pair.attributes = *new,
        IBV_QPS_RTR => {
            let access = queue_pair.attributes.qp_access_flags;
            queue_pair.attributes = ibv_qp_attr { qp_access_flags: access, ..*new };
        }
        IBV_QPS_RTS => queue_pair.attributes.sq_psn = new.sq_psn,
        _ => {}
    }
    queue_pair.state = new.qp_state;
    0
}

unsafe extern "C" fn destroy_qp(qp: *mut ibv_qp) -> c_int {
    let qp = unsafe { Box::from_raw(qp) };
    let mut wire = wire();
    let queue_pair = wire.queue_pairs.remove(&qp.qp_num).expect("a queue pair is destroyed once");
    wire.count(queue_pair.device, "queue pair", -1);
    0
}

unsafe extern "C" fn get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int {
    let mut wire = wire();
    let device = &mut wire.devices[unsafe { device_of(context) }];
    let Some(kind) = device.events.pop_front() else { return -1 };
    let mut byte = 0u8;
    unsafe {
        libc::read(device.pipe[0], (&raw mut byte).cast(), 1);
        (*event).event_type = kind;
    }
    0
}

unsafe extern "C" fn ack_async_event(_: *mut ibv_async_event) {}

unsafe extern "C" fn poll_cq(cq: *mut ibv_cq, room: c_int, into: *mut ibv_wc) -> c_int {
    let mut wire = wire();
    let queue = wire.queues.get_mut(&(cq as usize)).expect("a live queue");
    let count = queue.queue.len().min(usize::try_from(room).unwrap());
    for (index, completion) in queue.queue.drain(..count).enumerate() {
        unsafe { *into.add(index) = completion };
    }
    c_int::try_from(count).unwrap()
}

unsafe extern "C" fn req_notify_cq(cq: *mut ibv_cq, _: c_int) -> c_int {
    wire().queues.get_mut(&(cq as usize)).expect("a live queue").armed = true;
    0
}

unsafe extern "C" fn post_recv(qp: *mut ibv_qp, wr: *mut ibv_recv_wr, _: *mut *mut ibv_recv_wr) -> c_int {
    let mut wire = wire();
    let queue_pair = wire.queue_pairs.get_mut(unsafe { &(*qp).qp_num }).expect("a live queue pair");
    queue_pair.receives.push_back(unsafe { ((*wr).wr_id, *(*wr).sg_list) });
    0
}

unsafe extern "C" fn post_send(qp: *mut ibv_qp, wr: *mut ibv_send_wr, _: *mut *mut ibv_send_wr) -> c_int {
    let (number, work) = unsafe { ((*qp).qp_num, &*wr) };
    let mut wire = wire();
    let (device, queue, state) = {
        let queue_pair = &wire.queue_pairs[&number];
        (queue_pair.device, queue_pair.cq, queue_pair.state)
    };
    let mut completion = ibv_wc { wr_id: work.wr_id, qp_num: number, status: IBV_WC_SUCCESS, ..ibv_wc::default() };
    if state == IBV_QPS_ERR {
        completion.status = IBV_WC_WR_FLUSH_ERR;
        wire.complete(queue, completion);
        return 0;
    }
    if state != IBV_QPS_RTS || work.num_sge != 1 || work.send_flags & IBV_SEND_SIGNALED == 0 {
        wire.violated(device, format!("work was posted in state {state}, or without a completion"));
        return libc::EINVAL;
    }
    wire.devices[device].posted += 1;
    let mut fault = None;
    if let Some((left, what)) = wire.devices[device].faults.front_mut() {
        if *left == 0 {
            fault = Some(*what);
            wire.devices[device].faults.pop_front();
        } else {
            *left -= 1;
        }
    }
    match fault {
        Some(Fault::Refused(errno)) => return errno,
        Some(Fault::Removed) => {
            remove(&mut wire, device);
            return libc::EIO;
        }
        Some(Fault::Ends(status)) => {
            completion.status = status;
            wire.fail(number);
            wire.complete(queue, completion);
            return 0;
        }
        Some(Fault::EndsAfter(_) | Fault::Silent) | None => {}
    }
    let (mut wire, status) = carry_out(wire, number, work);
    completion.status = status;
    if let Some(Fault::EndsAfter(status)) = fault {
        completion.status = status;
    }
    if completion.status != IBV_WC_SUCCESS {
        wire.fail(number);
    }
    if fault != Some(Fault::Silent) {
        completion.byte_len = unsafe { (*work.sg_list).length };
        wire.complete(queue, completion);
    }
    0
}

/// Moves the bytes as two devices would, and says how it ended.
fn carry_out<'a>(mut wire: MutexGuard<'a, Wire>, number: u32, work: &ibv_send_wr) -> (MutexGuard<'a, Wire>, u32) {
    let queue_pair = &wire.queue_pairs[&number];
    let (device, near) = (queue_pair.device, queue_pair.attributes);
    // SAFETY: one element, as was checked.
    let element = unsafe { *work.sg_list };
    if !wire.is_registered(number, &element) {
        wire.violated(device, "work on memory outside its registration");
        return (wire, IBV_WC_LOC_PROT_ERR);
    }
    if work.opcode == IBV_WR_SEND {
        let status = send(&mut wire, number, &element);
        return (wire, status);
    }
    let asked = Asked {
        opcode: work.opcode,
        from: number,
        sequence: near.sq_psn,
        to: near.dest_qp_num,
        rkey: work.rkey,
        address: work.remote_addr,
        length: u64::from(element.length),
    };
    let reads = work.opcode == IBV_WR_RDMA_READ;
    let near_bytes = element.addr as *mut u8;
    let Some(owner) = between::owner_of(near.dest_qp_num) else {
        if let Err(status) = permitted(&mut wire, &asked) {
            return (wire, status);
        }
        let far_bytes = work.remote_addr as *mut u8;
        // SAFETY: both lie in live registrations, as was just checked under the lock that ending one takes.
        unsafe {
            if reads {
                std::ptr::copy(far_bytes, near_bytes, element.length as usize);
            } else {
                std::ptr::copy(near_bytes, far_bytes, element.length as usize);
            }
        }
        return (wire, IBV_WC_SUCCESS);
    };
    // SAFETY: it lies in a live registration of this process.
    let data = if reads { &[] } else { unsafe { std::slice::from_raw_parts(near_bytes, element.length as usize) } };
    let data = data.to_vec();
    // The other process may be asking this one at the same time: neither holds its lock meanwhile.
    drop(wire);
    let (mut status, bytes) = between::ask(owner, &asked, &data);
    let wire = self::wire();
    let alive = wire.queue_pairs.get(&number).is_some_and(|queue_pair| queue_pair.state == IBV_QPS_RTS);
    if !alive || !wire.is_registered(number, &element) {
        status = IBV_WC_WR_FLUSH_ERR;
    } else if status == IBV_WC_SUCCESS && reads {
        // SAFETY: it still lies in a live registration, as was just checked.
        unsafe { std::ptr::copy(bytes.as_ptr(), near_bytes, bytes.len()) };
    }
    (wire, status)
}

/// Whether the other end of a request lets it be carried out, and if not how it ends.
fn permitted(wire: &mut Wire, asked: &Asked) -> Result<(), u32> {
    // It must be there, in a state to answer, and connected to the asker with the right numbers.
    let Some(far) = wire.queue_pairs.get(&asked.to) else { return Err(IBV_WC_RETRY_EXC_ERR) };
    let answers = matches!(far.state, IBV_QPS_RTR | IBV_QPS_RTS);
    if !answers || far.attributes.dest_qp_num != asked.from || far.attributes.rq_psn != asked.sequence {
        return Err(IBV_WC_RETRY_EXC_ERR);
    }
    let wanted = if asked.opcode == IBV_WR_RDMA_READ { IBV_ACCESS_REMOTE_READ } else { IBV_ACCESS_REMOTE_WRITE };
    let allowed = wire.memory.get(&asked.rkey).is_some_and(|memory| {
        memory.domain == far.domain
            && memory.access & wanted != 0
            && far.attributes.qp_access_flags & wanted != 0
            && asked.address >= memory.address
            && asked.address + asked.length <= memory.address + memory.length
    });
    if !allowed || asked.rkey & 0x8000_0000 == 0 {
        wire.fail(asked.to);
        return Err(IBV_WC_REM_ACCESS_ERR);
    }
    Ok(())
}

/// A message to a receive of the other end, in this process only.
fn send(wire: &mut Wire, number: u32, element: &ibv_sge) -> u32 {
    let near = wire.queue_pairs[&number].attributes;
    let Some(far) = wire.queue_pairs.get_mut(&near.dest_qp_num) else { return IBV_WC_RETRY_EXC_ERR };
    let answers = matches!(far.state, IBV_QPS_RTR | IBV_QPS_RTS);
    if !answers || far.attributes.dest_qp_num != number || far.attributes.rq_psn != near.sq_psn {
        return IBV_WC_RETRY_EXC_ERR;
    }
    let Some((id, into)) = far.receives.pop_front() else { return IBV_WC_RNR_RETRY_EXC_ERR };
    // SAFETY: both registered, by the posters' contracts.
    unsafe {
        std::ptr::copy(element.addr as *const u8, into.addr as *mut u8, element.length.min(into.length) as usize);
    }
    let (far_queue, qp_num) = (far.cq, near.dest_qp_num);
    wire.complete(far_queue, ibv_wc { wr_id: id, qp_num, byte_len: element.length, ..ibv_wc::default() });
    IBV_WC_SUCCESS
}

/// The library's functions.
pub fn table() -> Table {
    Table {
        get_device_list,
        free_device_list,
        get_device_name,
        open_device,
        close_device,
        query_device,
        query_port,
        query_gid,
        query_gid_table: Some(query_gid_table),
        alloc_pd,
        dealloc_pd,
        reg_mr,
        dereg_mr,
        create_comp_channel,
        destroy_comp_channel,
        create_cq,
        destroy_cq,
        get_cq_event,
        ack_cq_events,
        create_qp,
        modify_qp,
        destroy_qp,
        get_async_event,
        ack_async_event,
    }
}
