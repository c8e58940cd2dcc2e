//! A device, its first port that is up, and the domain everything on it belongs to.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::layout::*;
use super::library::{DeviceList, Library};
use crate::VerbsError;

/// Most entries of a GID table that are looked at: cards have 16 to 256.
const GIDS_MAX: usize = 256;

/// The port that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number on the device, from one.
    pub number: u8,
    /// Its address in an InfiniBand subnet; zero on Ethernet.
    pub lid: u16,
    /// Its path MTU, as the number the library uses: `128 << mtu` bytes.
    pub mtu: u32,
    /// Its global address.
    pub gid: ibv_gid,
    /// Where that stands in the port's table.
    pub gid_index: u8,
    /// Whether packets need the global address: always over Ethernet.
    pub is_ethernet: bool,
    /// Reads that may be outstanding on one queue pair as their asker.
    pub reads_out_max: u8,
    /// Reads that one queue pair answers at once.
    pub reads_in_max: u8,
    /// Entries one send queue may have.
    pub work_max: u32,
}

/// Something the device said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The device failed or was removed: nothing on it works any more.
    Fatal,
    /// The port went down.
    PortDown,
    /// The port came up.
    PortUp,
    /// The port's addresses changed: whoever was told the old ones cannot connect by them.
    AddressChanged,
    /// A queue pair failed for a reason no work request tells.
    QueuePair,
    /// Anything else, by its number.
    Other(u32),
}

/// An open device.
pub struct Device {
    pub(super) library: Arc<Library>,
    pub(super) context: *mut ibv_context,
    name: String,
    port: Port,
}

// SAFETY: libibverbs' contexts may be used from any thread at the same time (its manual: "thread safe"); the fields of ours
// do not change.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Opens the device called `wanted`, or the first one with a port that is up.
    ///
    /// # Errors
    /// `Unavailable`, saying which devices there are and what is wrong with them.
    pub fn open(library: &Arc<Library>, wanted: Option<&str>) -> Result<Arc<Self>, VerbsError> {
        let list = DeviceList::get(library)?;
        let mut seen = Vec::new();
        for device in list.devices() {
            let name = list.name(device);
            if wanted.is_some_and(|wanted| wanted != name) {
                seen.push(format!("{name} was not asked for"));
                continue;
            }
            // SAFETY: a device of a list that is still held.
            let context = unsafe { (library.table.open_device)(device) };
            if context.is_null() {
                seen.push(format!("{name} cannot be opened ({})", std::io::Error::last_os_error()));
                continue;
            }
            match find_port(library, context, &name) {
                Ok(port) => {
                    let opened = Self { library: Arc::clone(library), context, name, port };
                    opened.make_events_nonblocking()?;
                    return Ok(Arc::new(opened));
                }
                Err(why) => {
                    // SAFETY: just opened, nothing made on it.
                    unsafe { (library.table.close_device)(context) };
                    seen.push(why);
                }
            }
        }
        let why = if seen.is_empty() { "there are no devices".to_owned() } else { seen.join("; ") };
        Err(VerbsError::Unavailable(why))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port in use.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// What the device said since it was last asked; `None` when that is nothing.
    pub fn next_event(&self) -> Option<DeviceEvent> {
        let mut event = ibv_async_event { element: std::ptr::null_mut(), event_type: 0 };
        // SAFETY: the context is open, `event` is live, and the descriptor was made non-blocking.
        if unsafe { (self.library.table.get_async_event)(self.context, &raw mut event) } != 0 {
            return None;
        }
        // SAFETY: the event was just handed out, and is acknowledged once. Not doing so would keep the object it is about
        // from being destroyed, for ever.
        unsafe { (self.library.table.ack_async_event)(&raw mut event) };
        Some(match event.event_type {
            IBV_EVENT_DEVICE_FATAL => DeviceEvent::Fatal,
            IBV_EVENT_PORT_ERR => DeviceEvent::PortDown,
            IBV_EVENT_PORT_ACTIVE => DeviceEvent::PortUp,
            IBV_EVENT_LID_CHANGE | IBV_EVENT_GID_CHANGE => DeviceEvent::AddressChanged,
            IBV_EVENT_QP_FATAL | IBV_EVENT_QP_REQ_ERR | IBV_EVENT_QP_ACCESS_ERR => DeviceEvent::QueuePair,
            other => DeviceEvent::Other(other),
        })
    }

    /// Readable when the device has something to say.
    pub fn events(&self) -> BorrowedFd<'_> {
        // SAFETY: the library keeps the descriptor open for as long as the context is.
        unsafe { BorrowedFd::borrow_raw((*self.context).async_fd) }
    }

    fn make_events_nonblocking(&self) -> Result<(), VerbsError> {
        // SAFETY: as in `events`.
        make_nonblocking(unsafe { (*self.context).async_fd })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: opened by us, closed once; whatever was made on it holds this object and so is gone.
        unsafe { (self.library.table.close_device)(self.context) };
    }
}

pub(super) fn make_nonblocking(descriptor: i32) -> Result<(), VerbsError> {
    // SAFETY: plain system calls on a descriptor that is open.
    let rc = unsafe {
        let flags = libc::fcntl(descriptor, libc::F_GETFL);
        if flags < 0 { flags } else { libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK) }
    };
    if rc < 0 { Err(VerbsError::last("making a device's descriptor non-blocking")) } else { Ok(()) }
}

/// The first port that is up, or the reason there is none.
fn find_port(library: &Library, context: *mut ibv_context, name: &str) -> Result<Port, String> {
    // SAFETY: an all-zero structure of numbers, filled by the call.
    let mut attributes: ibv_device_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the context is open and the structure live.
    if unsafe { (library.table.query_device)(context, &raw mut attributes) } != 0 {
        return Err(format!("{name} does not say what it can do"));
    }
    for number in 1..=attributes.phys_port_cnt.max(1) {
        let mut port = ibv_port_attr::default();
        // SAFETY: as above. The exported function fills the older, shorter structure; the rest stays zero.
        let failed = unsafe { (library.table.query_port)(context, number, &raw mut port) } != 0;
        if failed || port.state != IBV_PORT_ACTIVE {
            continue;
        }
        let is_ethernet = port.link_layer == IBV_LINK_LAYER_ETHERNET;
        let Some((gid_index, gid)) = choose_gid(library, context, name, number, port.gid_tbl_len, is_ethernet) else {
            continue;
        };
        let small = |value: i32| u8::try_from(value.clamp(1, 16)).expect("clamped");
        return Ok(Port {
            number,
            lid: port.lid,
            mtu: port.active_mtu.clamp(1, 5),
            gid,
            gid_index,
            is_ethernet,
            reads_out_max: small(attributes.max_qp_init_rd_atom),
            reads_in_max: small(attributes.max_qp_rd_atom),
            work_max: u32::try_from(attributes.max_qp_wr).unwrap_or(0),
        });
    }
    Err(format!("{name} has no port that is up and has an address"))
}

/// Over Ethernet the entry for RoCE v2 with an IPv4 address, else any for RoCE v2; in a subnet the first.
fn choose_gid(
    library: &Library,
    context: *mut ibv_context,
    name: &str,
    port: u8,
    table_len: i32,
    is_ethernet: bool,
) -> Option<(u8, ibv_gid)> {
    let count = usize::try_from(table_len).unwrap_or(0).min(GIDS_MAX);
    let mut best = None;
    for index in 0..count {
        let mut gid: ibv_gid = [0; 16];
        let number = i32::try_from(index).expect("bounded");
        // SAFETY: the context is open and the GID live; the union is sixteen bytes, whatever its alignment.
        if unsafe { (library.table.query_gid)(context, port, number, &raw mut gid) } != 0 || gid == [0; 16] {
            continue;
        }
        let index = u8::try_from(index).expect("bounded");
        if !is_ethernet {
            return Some((index, gid));
        }
        if !is_roce_v2(library, context, name, port, index) {
            continue;
        }
        let mapped = gid[..10] == [0; 10] && gid[10..12] == [0xff, 0xff];
        if mapped {
            return Some((index, gid));
        }
        best = best.or(Some((index, gid)));
    }
    best
}

fn is_roce_v2(library: &Library, context: *mut ibv_context, name: &str, port: u8, index: u8) -> bool {
    if let Some(query) = library.table.query_gid_table {
        let mut entries = vec![ibv_gid_entry::default(); GIDS_MAX];
        // SAFETY: the context is open; the entries are live, their number and size are told.
        let found =
            unsafe { query(context, entries.as_mut_ptr(), entries.len(), 0, std::mem::size_of::<ibv_gid_entry>()) };
        if let Ok(found) = usize::try_from(found) {
            return entries.iter().take(found).any(|entry| {
                entry.port_num == u32::from(port)
                    && entry.gid_index == u32::from(index)
                    && entry.gid_type == IBV_GID_TYPE_ROCE_V2
            });
        }
    }
    std::fs::read_to_string(format!("/sys/class/infiniband/{name}/ports/{port}/gid_attrs/types/{index}"))
        .is_ok_and(|kind| kind.trim() == "RoCE v2")
}

/// What keys and queue pairs belong to: a key works on the queue pairs of its own domain only.
pub struct Domain {
    pub(super) device: Arc<Device>,
    pub(super) pd: *mut ibv_pd,
}

// SAFETY: as for `Device`.
unsafe impl Send for Domain {}
// SAFETY: as for `Device`.
unsafe impl Sync for Domain {}

impl Domain {
    /// A domain of its own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(device: &Arc<Device>) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the context is open.
        let pd = unsafe { (device.library.table.alloc_pd)(device.context) };
        if pd.is_null() {
            return Err(VerbsError::last("making a protection domain"));
        }
        Ok(Arc::new(Self { device: Arc::clone(device), pd }))
    }

    /// Its device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: made by us, given back once; memory and queue pairs hold this object and so are gone.
        unsafe { (self.device.library.table.dealloc_pd)(self.pd) };
    }
}
