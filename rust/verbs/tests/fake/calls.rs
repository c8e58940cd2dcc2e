//! The library's calls that make, change and end things; each checks that its caller keeps to the contract.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};

use weft_verbs::ffi::layout::*;

use super::between;
use super::wire::*;
use super::work::{post_recv, post_send};

/// A transition's exact mask, for a reliable connection.
pub(super) fn mask_of(from: u32, to: u32) -> Option<c_int> {
    match (from, to) {
        (IBV_QPS_RESET, IBV_QPS_INIT) => Some(0x39),
        (IBV_QPS_INIT, IBV_QPS_RTR) => Some(0x12_9181),
        (IBV_QPS_RTR, IBV_QPS_RTS) => Some(0x1_2e01),
        (_, IBV_QPS_ERR) => Some(1),
        _ => None,
    }
}

#[repr(C)]
pub(super) struct Context {
    pub(super) context: ibv_context,
    pub(super) device: usize,
}

// All functions below are called with what this table returned before and nobody destroyed, and with live arguments: that
// is libibverbs' contract, and every unsafe block of them rests on it.

pub(super) unsafe fn device_of(context: *mut ibv_context) -> usize {
    unsafe { (*context.cast::<Context>()).device }
}

pub(super) unsafe extern "C" fn get_device_list(count: *mut c_int) -> *mut *mut ibv_device {
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

pub(super) unsafe extern "C" fn free_device_list(list: *mut *mut ibv_device) {
    let mut count = 0;
    unsafe {
        while !(*list.add(count)).is_null() {
            count += 1;
        }
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(list, count + 1)));
    }
}

pub(super) unsafe extern "C" fn get_device_name(device: *mut ibv_device) -> *const c_char {
    wire().devices[device as usize - 1].name.as_ptr()
}

pub(super) unsafe extern "C" fn open_device(device: *mut ibv_device) -> *mut ibv_context {
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

pub(super) unsafe extern "C" fn close_device(context: *mut ibv_context) -> c_int {
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

pub(super) unsafe extern "C" fn query_device(_: *mut ibv_context, attributes: *mut ibv_device_attr) -> c_int {
    unsafe {
        (*attributes).max_qp_wr = 1024;
        (*attributes).max_qp_rd_atom = 16;
        (*attributes).max_qp_init_rd_atom = 4;
        (*attributes).phys_port_cnt = 2;
    }
    0
}

pub(super) unsafe extern "C" fn query_port(
    context: *mut ibv_context,
    port: u8,
    attributes: *mut ibv_port_attr,
) -> c_int {
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

pub(super) unsafe extern "C" fn query_gid(context: *mut ibv_context, _: u8, index: c_int, gid: *mut ibv_gid) -> c_int {
    let real = wire().devices[unsafe { device_of(context) }].gid;
    unsafe { *gid = if index == 0 { [0xfe; 16] } else { real } };
    0
}

pub(super) unsafe extern "C" fn query_gid_table(
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

pub(super) unsafe extern "C" fn alloc_pd(context: *mut ibv_context) -> *mut ibv_pd {
    let device = unsafe { device_of(context) };
    let mut wire = wire();
    wire.count(device, "domain", 1);
    let domain = next() as usize;
    wire.domains.insert(domain, device);
    domain as *mut ibv_pd
}

pub(super) unsafe extern "C" fn dealloc_pd(pd: *mut ibv_pd) -> c_int {
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

pub(super) unsafe extern "C" fn reg_mr(
    pd: *mut ibv_pd,
    address: *mut c_void,
    length: usize,
    access: c_int,
) -> *mut ibv_mr {
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

pub(super) unsafe extern "C" fn dereg_mr(mr: *mut ibv_mr) -> c_int {
    let mr = unsafe { Box::from_raw(mr) };
    let mut wire = wire();
    let memory = wire.memory.remove(&mr.lkey).expect("memory is given back once");
    wire.memory.remove(&mr.rkey);
    wire.count(memory.device, "memory", -1);
    0
}

pub(super) unsafe extern "C" fn create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel {
    let device = unsafe { device_of(context) };
    let mut pipe = [0; 2];
    assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    let channel = Box::into_raw(Box::new(ibv_comp_channel { context, fd: pipe[0], refcnt: 0 }));
    let mut wire = wire();
    wire.count(device, "channel", 1);
    wire.channels.insert(channel as usize, (device, pipe[1], 0));
    channel
}

pub(super) unsafe extern "C" fn destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int {
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

pub(super) unsafe extern "C" fn create_cq(
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

pub(super) unsafe extern "C" fn destroy_cq(cq: *mut ibv_cq) -> c_int {
    let mut wire = wire();
    let queue = wire.queues.remove(&(cq as usize)).expect("a queue is destroyed once");
    wire.count(queue.device, "queue", -1);
    if wire.queue_pairs.values().any(|queue_pair| queue_pair.cq == cq as usize) {
        wire.violated(queue.device, "a completion queue was destroyed before its queue pairs");
    }
    drop(unsafe { Box::from_raw(cq) });
    0
}

pub(super) unsafe extern "C" fn get_cq_event(
    channel: *mut ibv_comp_channel,
    cq: *mut *mut ibv_cq,
    _: *mut *mut c_void,
) -> c_int {
    let mut byte = 0u8;
    if unsafe { libc::read((*channel).fd, (&raw mut byte).cast(), 1) } != 1 {
        return -1;
    }
    unsafe { *cq = wire().channels[&(channel as usize)].2 as *mut ibv_cq };
    0
}

pub(super) unsafe extern "C" fn ack_cq_events(_: *mut ibv_cq, _: u32) {}

pub(super) unsafe extern "C" fn create_qp(pd: *mut ibv_pd, attributes: *mut ibv_qp_init_attr) -> *mut ibv_qp {
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

pub(super) unsafe extern "C" fn modify_qp(qp: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int) -> c_int {
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

pub(super) unsafe extern "C" fn destroy_qp(qp: *mut ibv_qp) -> c_int {
    let qp = unsafe { Box::from_raw(qp) };
    let mut wire = wire();
    let queue_pair = wire.queue_pairs.remove(&qp.qp_num).expect("a queue pair is destroyed once");
    wire.count(queue_pair.device, "queue pair", -1);
    0
}

pub(super) unsafe extern "C" fn get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int {
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

pub(super) unsafe extern "C" fn ack_async_event(_: *mut ibv_async_event) {}

pub(super) unsafe extern "C" fn poll_cq(cq: *mut ibv_cq, room: c_int, into: *mut ibv_wc) -> c_int {
    let mut wire = wire();
    let queue = wire.queues.get_mut(&(cq as usize)).expect("a live queue");
    let count = queue.queue.len().min(usize::try_from(room).unwrap());
    for (index, completion) in queue.queue.drain(..count).enumerate() {
        unsafe { *into.add(index) = completion };
    }
    c_int::try_from(count).unwrap()
}

pub(super) unsafe extern "C" fn req_notify_cq(cq: *mut ibv_cq, _: c_int) -> c_int {
    wire().queues.get_mut(&(cq as usize)).expect("a live queue").armed = true;
    0
}
