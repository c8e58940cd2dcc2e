//! libibverbs as it lies in memory.
//!
//! The library exports most verbs, but posting and polling are inline functions of its headers: they jump through a table
//! inside the context. So the context's layout, and that of everything handed through the table, is part of the ABI. It has
//! not changed since libibverbs 1.1; sizes and offsets are asserted below when this is compiled, and once more by a test
//! against the headers of the machine, where it has them.
//!
//! Fields that Weft neither reads nor writes are kept as padding, so that what matters stays readable.

#![allow(non_camel_case_types, reason = "the names of libibverbs' own headers")]

use std::ffi::{c_char, c_int, c_void};

/// `union ibv_gid`.
pub type ibv_gid = [u8; 16];

/// `struct ibv_device`, never looked into.
#[repr(C)]
pub struct ibv_device {
    _opaque: [u8; 0],
}

/// `struct ibv_pd`, never looked into.
#[repr(C)]
pub struct ibv_pd {
    _opaque: [u8; 0],
}

/// `struct ibv_cq`, never looked into.
#[repr(C)]
pub struct ibv_cq {
    /// The device it belongs to.
    pub context: *mut ibv_context,
}

/// `struct ibv_context` up to the descriptors; the library owns what follows.
#[repr(C)]
pub struct ibv_context {
    pub device: *mut ibv_device,
    pub ops: ibv_context_ops,
    pub cmd_fd: c_int,
    pub async_fd: c_int,
    pub num_comp_vectors: c_int,
}

/// `struct ibv_context_ops`: what the inline functions jump through.
#[repr(C)]
pub struct ibv_context_ops {
    pub before_poll: [*mut c_void; 11],
    pub poll_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int>,
    pub req_notify_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int>,
    pub between: [*mut c_void; 12],
    pub post_send: Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int>,
    pub post_recv: Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int>,
    pub after: [*mut c_void; 5],
}

/// `struct ibv_comp_channel`.
#[repr(C)]
pub struct ibv_comp_channel {
    pub context: *mut ibv_context,
    pub fd: c_int,
    pub refcnt: c_int,
}

/// `struct ibv_mr`.
#[repr(C)]
pub struct ibv_mr {
    pub context: *mut ibv_context,
    pub pd: *mut ibv_pd,
    pub addr: *mut c_void,
    pub length: usize,
    pub handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

/// `struct ibv_qp` up to its number.
#[repr(C)]
pub struct ibv_qp {
    pub context: *mut ibv_context,
    pub qp_context: *mut c_void,
    pub pd: *mut ibv_pd,
    pub send_cq: *mut ibv_cq,
    pub recv_cq: *mut ibv_cq,
    pub srq: *mut c_void,
    pub handle: u32,
    pub qp_num: u32,
}

/// `struct ibv_device_attr`, of which a few limits are read.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_device_attr {
    pub fw_ver: [c_char; 64],
    pub guids: [u64; 2],
    pub max_mr_size: u64,
    pub page_size_cap: u64,
    pub vendor: [u32; 3],
    pub max_qp: c_int,
    pub max_qp_wr: c_int,
    pub device_cap_flags: u32,
    pub max_sge: c_int,
    pub max_sge_rd: c_int,
    pub max_cq: c_int,
    pub max_cqe: c_int,
    pub max_mr: c_int,
    pub max_pd: c_int,
    pub max_qp_rd_atom: c_int,
    pub max_ee_rd_atom: c_int,
    pub max_res_rd_atom: c_int,
    pub max_qp_init_rd_atom: c_int,
    pub rest: [c_int; 16],
    pub max_pkeys: u16,
    pub local_ca_ack_delay: u8,
    pub phys_port_cnt: u8,
}

/// `struct ibv_port_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_port_attr {
    pub state: u32,
    pub max_mtu: u32,
    pub active_mtu: u32,
    pub gid_tbl_len: c_int,
    pub port_cap_flags: u32,
    pub max_msg_sz: u32,
    pub bad_pkey_cntr: u32,
    pub qkey_viol_cntr: u32,
    pub pkey_tbl_len: u16,
    pub lid: u16,
    pub sm_lid: u16,
    pub before_link_layer: [u8; 8],
    pub link_layer: u8,
    pub flags: u8,
    pub port_cap_flags2: u16,
}

/// `struct ibv_gid_entry`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_gid_entry {
    pub gid: AlignedGid,
    pub gid_index: u32,
    pub port_num: u32,
    pub gid_type: u32,
    pub ndev_ifindex: u32,
}

/// A GID as it lies in structures: the union has the alignment of its 64-bit halves.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct AlignedGid(pub ibv_gid);

/// `struct ibv_global_route`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_global_route {
    pub dgid: AlignedGid,
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

/// `struct ibv_ah_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_ah_attr {
    pub grh: ibv_global_route,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

/// `struct ibv_qp_cap`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_qp_cap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

/// `struct ibv_qp_init_attr`.
#[repr(C)]
pub struct ibv_qp_init_attr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut ibv_cq,
    pub recv_cq: *mut ibv_cq,
    pub srq: *mut c_void,
    pub cap: ibv_qp_cap,
    pub qp_type: u32,
    pub sq_sig_all: c_int,
}

/// `struct ibv_qp_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_qp_attr {
    pub qp_state: u32,
    pub cur_qp_state: u32,
    pub path_mtu: u32,
    pub path_mig_state: u32,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: u32,
    pub cap: ibv_qp_cap,
    pub ah_attr: ibv_ah_attr,
    pub alt_ah_attr: ibv_ah_attr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

/// `struct ibv_sge`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

/// `struct ibv_send_wr`, with its unions as Weft uses them: RDMA reads and writes, and plain sends.
#[repr(C)]
pub struct ibv_send_wr {
    pub wr_id: u64,
    pub next: *mut ibv_send_wr,
    pub sg_list: *mut ibv_sge,
    pub num_sge: c_int,
    pub opcode: u32,
    pub send_flags: u32,
    pub imm_data: u32,
    pub remote_addr: u64,
    pub rkey: u32,
    pub unused: [u64; 9],
}

/// `struct ibv_recv_wr`.
#[repr(C)]
pub struct ibv_recv_wr {
    pub wr_id: u64,
    pub next: *mut ibv_recv_wr,
    pub sg_list: *mut ibv_sge,
    pub num_sge: c_int,
}

/// `struct ibv_wc`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_wc {
    pub wr_id: u64,
    pub status: u32,
    pub opcode: u32,
    pub vendor_err: u32,
    pub byte_len: u32,
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: u32,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

/// `struct ibv_async_event`.
#[repr(C)]
pub struct ibv_async_event {
    pub element: *mut c_void,
    pub event_type: u32,
}

pub const IBV_QP_STATE: c_int = 1 << 0;
pub const IBV_QP_ACCESS_FLAGS: c_int = 1 << 3;
pub const IBV_QP_PKEY_INDEX: c_int = 1 << 4;
pub const IBV_QP_PORT: c_int = 1 << 5;
pub const IBV_QP_AV: c_int = 1 << 7;
pub const IBV_QP_PATH_MTU: c_int = 1 << 8;
pub const IBV_QP_TIMEOUT: c_int = 1 << 9;
pub const IBV_QP_RETRY_CNT: c_int = 1 << 10;
pub const IBV_QP_RNR_RETRY: c_int = 1 << 11;
pub const IBV_QP_RQ_PSN: c_int = 1 << 12;
pub const IBV_QP_MAX_QP_RD_ATOMIC: c_int = 1 << 13;
pub const IBV_QP_MIN_RNR_TIMER: c_int = 1 << 15;
pub const IBV_QP_SQ_PSN: c_int = 1 << 16;
pub const IBV_QP_MAX_DEST_RD_ATOMIC: c_int = 1 << 17;
pub const IBV_QP_DEST_QPN: c_int = 1 << 20;

/// What RESET → INIT must name, no more and no less.
pub const MASK_INIT: c_int = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
/// What INIT → RTR must name for a reliable connection.
pub const MASK_RTR: c_int = IBV_QP_STATE
    | IBV_QP_AV
    | IBV_QP_PATH_MTU
    | IBV_QP_DEST_QPN
    | IBV_QP_RQ_PSN
    | IBV_QP_MAX_DEST_RD_ATOMIC
    | IBV_QP_MIN_RNR_TIMER;
/// What RTR → RTS must name for a reliable connection.
pub const MASK_RTS: c_int =
    IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;

pub const IBV_QPS_RESET: u32 = 0;
pub const IBV_QPS_INIT: u32 = 1;
pub const IBV_QPS_RTR: u32 = 2;
pub const IBV_QPS_RTS: u32 = 3;
pub const IBV_QPS_ERR: u32 = 6;

pub const IBV_QPT_RC: u32 = 2;

pub const IBV_ACCESS_LOCAL_WRITE: u32 = 1;
pub const IBV_ACCESS_REMOTE_WRITE: u32 = 1 << 1;
pub const IBV_ACCESS_REMOTE_READ: u32 = 1 << 2;

pub const IBV_WR_RDMA_WRITE: u32 = 0;
pub const IBV_WR_SEND: u32 = 2;
pub const IBV_WR_RDMA_READ: u32 = 4;

pub const IBV_SEND_FENCE: u32 = 1 << 0;
pub const IBV_SEND_SIGNALED: u32 = 1 << 1;
pub const IBV_SEND_INLINE: u32 = 1 << 3;

pub const IBV_WC_SUCCESS: u32 = 0;
pub const IBV_WC_LOC_LEN_ERR: u32 = 1;
pub const IBV_WC_LOC_PROT_ERR: u32 = 4;
pub const IBV_WC_WR_FLUSH_ERR: u32 = 5;
pub const IBV_WC_REM_INV_REQ_ERR: u32 = 9;
pub const IBV_WC_REM_ACCESS_ERR: u32 = 10;
pub const IBV_WC_REM_OP_ERR: u32 = 11;
pub const IBV_WC_RETRY_EXC_ERR: u32 = 12;
pub const IBV_WC_RNR_RETRY_EXC_ERR: u32 = 13;
pub const IBV_WC_FATAL_ERR: u32 = 19;
pub const IBV_WC_RESP_TIMEOUT_ERR: u32 = 20;

pub const IBV_PORT_ACTIVE: u32 = 4;
pub const IBV_LINK_LAYER_ETHERNET: u8 = 2;
pub const IBV_GID_TYPE_ROCE_V2: u32 = 2;
/// Bytes of path MTU number `n` are `128 << n`.
pub const IBV_MTU_1024: u32 = 3;

pub const IBV_EVENT_QP_FATAL: u32 = 1;
pub const IBV_EVENT_QP_REQ_ERR: u32 = 2;
pub const IBV_EVENT_QP_ACCESS_ERR: u32 = 3;
pub const IBV_EVENT_DEVICE_FATAL: u32 = 8;
pub const IBV_EVENT_PORT_ACTIVE: u32 = 9;
pub const IBV_EVENT_PORT_ERR: u32 = 10;
pub const IBV_EVENT_LID_CHANGE: u32 = 11;
pub const IBV_EVENT_GID_CHANGE: u32 = 18;

/// Sizes and offsets by the names of the C headers: what the test against the machine's headers asks a C compiler for.
#[cfg(target_pointer_width = "64")]
pub const LAYOUT: &[(&str, &str, usize)] = &[
    ("ibv_context", "ops.poll_cq", std::mem::offset_of!(ibv_context, ops.poll_cq)),
    ("ibv_context", "ops.req_notify_cq", std::mem::offset_of!(ibv_context, ops.req_notify_cq)),
    ("ibv_context", "ops.post_send", std::mem::offset_of!(ibv_context, ops.post_send)),
    ("ibv_context", "ops.post_recv", std::mem::offset_of!(ibv_context, ops.post_recv)),
    ("ibv_context", "async_fd", std::mem::offset_of!(ibv_context, async_fd)),
    ("ibv_cq", "context", std::mem::offset_of!(ibv_cq, context)),
    ("ibv_comp_channel", "fd", std::mem::offset_of!(ibv_comp_channel, fd)),
    ("ibv_comp_channel", "", size_of::<ibv_comp_channel>()),
    ("ibv_mr", "addr", std::mem::offset_of!(ibv_mr, addr)),
    ("ibv_mr", "lkey", std::mem::offset_of!(ibv_mr, lkey)),
    ("ibv_mr", "rkey", std::mem::offset_of!(ibv_mr, rkey)),
    ("ibv_mr", "", size_of::<ibv_mr>()),
    ("ibv_qp", "qp_num", std::mem::offset_of!(ibv_qp, qp_num)),
    ("ibv_device_attr", "max_mr_size", std::mem::offset_of!(ibv_device_attr, max_mr_size)),
    ("ibv_device_attr", "max_qp_wr", std::mem::offset_of!(ibv_device_attr, max_qp_wr)),
    ("ibv_device_attr", "max_qp_rd_atom", std::mem::offset_of!(ibv_device_attr, max_qp_rd_atom)),
    ("ibv_device_attr", "max_qp_init_rd_atom", std::mem::offset_of!(ibv_device_attr, max_qp_init_rd_atom)),
    ("ibv_device_attr", "phys_port_cnt", std::mem::offset_of!(ibv_device_attr, phys_port_cnt)),
    ("ibv_device_attr", "", size_of::<ibv_device_attr>()),
    ("ibv_port_attr", "active_mtu", std::mem::offset_of!(ibv_port_attr, active_mtu)),
    ("ibv_port_attr", "gid_tbl_len", std::mem::offset_of!(ibv_port_attr, gid_tbl_len)),
    ("ibv_port_attr", "lid", std::mem::offset_of!(ibv_port_attr, lid)),
    ("ibv_port_attr", "link_layer", std::mem::offset_of!(ibv_port_attr, link_layer)),
    ("ibv_port_attr", "", size_of::<ibv_port_attr>()),
    ("ibv_gid_entry", "gid_type", std::mem::offset_of!(ibv_gid_entry, gid_type)),
    ("ibv_gid_entry", "", size_of::<ibv_gid_entry>()),
    ("ibv_ah_attr", "grh.sgid_index", std::mem::offset_of!(ibv_ah_attr, grh.sgid_index)),
    ("ibv_ah_attr", "grh.hop_limit", std::mem::offset_of!(ibv_ah_attr, grh.hop_limit)),
    ("ibv_ah_attr", "dlid", std::mem::offset_of!(ibv_ah_attr, dlid)),
    ("ibv_ah_attr", "is_global", std::mem::offset_of!(ibv_ah_attr, is_global)),
    ("ibv_ah_attr", "port_num", std::mem::offset_of!(ibv_ah_attr, port_num)),
    ("ibv_ah_attr", "", size_of::<ibv_ah_attr>()),
    ("ibv_qp_init_attr", "cap", std::mem::offset_of!(ibv_qp_init_attr, cap)),
    ("ibv_qp_init_attr", "qp_type", std::mem::offset_of!(ibv_qp_init_attr, qp_type)),
    ("ibv_qp_init_attr", "sq_sig_all", std::mem::offset_of!(ibv_qp_init_attr, sq_sig_all)),
    ("ibv_qp_init_attr", "", size_of::<ibv_qp_init_attr>()),
    ("ibv_qp_attr", "path_mtu", std::mem::offset_of!(ibv_qp_attr, path_mtu)),
    ("ibv_qp_attr", "rq_psn", std::mem::offset_of!(ibv_qp_attr, rq_psn)),
    ("ibv_qp_attr", "sq_psn", std::mem::offset_of!(ibv_qp_attr, sq_psn)),
    ("ibv_qp_attr", "dest_qp_num", std::mem::offset_of!(ibv_qp_attr, dest_qp_num)),
    ("ibv_qp_attr", "qp_access_flags", std::mem::offset_of!(ibv_qp_attr, qp_access_flags)),
    ("ibv_qp_attr", "ah_attr", std::mem::offset_of!(ibv_qp_attr, ah_attr)),
    ("ibv_qp_attr", "pkey_index", std::mem::offset_of!(ibv_qp_attr, pkey_index)),
    ("ibv_qp_attr", "max_rd_atomic", std::mem::offset_of!(ibv_qp_attr, max_rd_atomic)),
    ("ibv_qp_attr", "max_dest_rd_atomic", std::mem::offset_of!(ibv_qp_attr, max_dest_rd_atomic)),
    ("ibv_qp_attr", "min_rnr_timer", std::mem::offset_of!(ibv_qp_attr, min_rnr_timer)),
    ("ibv_qp_attr", "port_num", std::mem::offset_of!(ibv_qp_attr, port_num)),
    ("ibv_qp_attr", "timeout", std::mem::offset_of!(ibv_qp_attr, timeout)),
    ("ibv_qp_attr", "retry_cnt", std::mem::offset_of!(ibv_qp_attr, retry_cnt)),
    ("ibv_qp_attr", "rnr_retry", std::mem::offset_of!(ibv_qp_attr, rnr_retry)),
    ("ibv_qp_attr", "", size_of::<ibv_qp_attr>()),
    ("ibv_sge", "lkey", std::mem::offset_of!(ibv_sge, lkey)),
    ("ibv_sge", "", size_of::<ibv_sge>()),
    ("ibv_send_wr", "opcode", std::mem::offset_of!(ibv_send_wr, opcode)),
    ("ibv_send_wr", "send_flags", std::mem::offset_of!(ibv_send_wr, send_flags)),
    ("ibv_send_wr", "wr.rdma.remote_addr", std::mem::offset_of!(ibv_send_wr, remote_addr)),
    ("ibv_send_wr", "wr.rdma.rkey", std::mem::offset_of!(ibv_send_wr, rkey)),
    ("ibv_send_wr", "", size_of::<ibv_send_wr>()),
    ("ibv_recv_wr", "num_sge", std::mem::offset_of!(ibv_recv_wr, num_sge)),
    ("ibv_recv_wr", "", size_of::<ibv_recv_wr>()),
    ("ibv_wc", "status", std::mem::offset_of!(ibv_wc, status)),
    ("ibv_wc", "byte_len", std::mem::offset_of!(ibv_wc, byte_len)),
    ("ibv_wc", "qp_num", std::mem::offset_of!(ibv_wc, qp_num)),
    ("ibv_wc", "", size_of::<ibv_wc>()),
    ("ibv_async_event", "event_type", std::mem::offset_of!(ibv_async_event, event_type)),
    ("ibv_async_event", "", size_of::<ibv_async_event>()),
];

#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(ibv_context, ops.poll_cq) == 96 && offset_of!(ibv_context, ops.req_notify_cq) == 104);
    assert!(offset_of!(ibv_context, ops.post_send) == 208 && offset_of!(ibv_context, ops.post_recv) == 216);
    assert!(offset_of!(ibv_qp, qp_num) == 52);
    assert!(size_of::<ibv_mr>() == 48 && offset_of!(ibv_mr, lkey) == 36 && offset_of!(ibv_mr, rkey) == 40);
    assert!(size_of::<ibv_sge>() == 16 && size_of::<ibv_recv_wr>() == 32);
    assert!(size_of::<ibv_send_wr>() == 128 && offset_of!(ibv_send_wr, remote_addr) == 40);
    assert!(offset_of!(ibv_send_wr, opcode) == 28 && offset_of!(ibv_send_wr, rkey) == 48);
    assert!(size_of::<ibv_wc>() == 48 && offset_of!(ibv_wc, byte_len) == 20 && offset_of!(ibv_wc, qp_num) == 28);
    assert!(size_of::<ibv_qp_init_attr>() == 64 && size_of::<ibv_qp_attr>() == 144);
    assert!(offset_of!(ibv_qp_attr, ah_attr) == 56 && offset_of!(ibv_qp_attr, pkey_index) == 120);
    assert!(offset_of!(ibv_qp_attr, max_rd_atomic) == 126 && offset_of!(ibv_qp_attr, rnr_retry) == 132);
    assert!(size_of::<ibv_device_attr>() == 232 && offset_of!(ibv_device_attr, phys_port_cnt) == 227);
    assert!(size_of::<ibv_ah_attr>() == 32 && offset_of!(ibv_ah_attr, is_global) == 29);
    assert!(size_of::<ibv_port_attr>() == 52 && offset_of!(ibv_port_attr, link_layer) == 46);
    assert!(MASK_INIT == 0x39 && MASK_RTR == 0x12_9181 && MASK_RTS == 0x1_2e01);
};
