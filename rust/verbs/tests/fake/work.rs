//! Work on queue pairs: posted, carried out as two devices would, or ended by a fault.

use std::ffi::c_int;
use std::sync::MutexGuard;

use weft_verbs::ffi::layout::*;

use super::between::{self, Asked};
use super::wire::*;
use super::{Fault, wire};

pub(super) unsafe extern "C" fn post_recv(qp: *mut ibv_qp, wr: *mut ibv_recv_wr, _: *mut *mut ibv_recv_wr) -> c_int {
    let mut wire = wire();
    let queue_pair = wire.queue_pairs.get_mut(unsafe { &(*qp).qp_num }).expect("a live queue pair");
    queue_pair.receives.push_back(unsafe { ((*wr).wr_id, *(*wr).sg_list) });
    0
}

pub(super) unsafe extern "C" fn post_send(qp: *mut ibv_qp, wr: *mut ibv_send_wr, _: *mut *mut ibv_send_wr) -> c_int {
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
pub(super) fn carry_out<'a>(
    mut wire: MutexGuard<'a, Wire>,
    number: u32,
    work: &ibv_send_wr,
) -> (MutexGuard<'a, Wire>, u32) {
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
pub(super) fn permitted(wire: &mut Wire, asked: &Asked) -> Result<(), u32> {
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
pub(super) fn send(wire: &mut Wire, number: u32, element: &ibv_sge) -> u32 {
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
