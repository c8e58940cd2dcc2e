//! libibverbs, loaded when it is first asked for.
//!
//! Nothing links against it: one build of Weft runs on machines with and without it. What is not there is said, once, in a
//! sentence; what is there is a table of functions, and a test may bring a table of its own.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::Arc;

use super::layout::*;
use crate::VerbsError;

/// The name every distribution installs it under.
const SONAME: &str = "libibverbs.so.1";

/// The functions of the library that Weft calls, by their exported names.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "each is the function of libibverbs of that name; its manual page says the rest")]
pub struct Table {
    pub get_device_list: unsafe extern "C" fn(*mut c_int) -> *mut *mut ibv_device,
    pub free_device_list: unsafe extern "C" fn(*mut *mut ibv_device),
    pub get_device_name: unsafe extern "C" fn(*mut ibv_device) -> *const c_char,
    pub open_device: unsafe extern "C" fn(*mut ibv_device) -> *mut ibv_context,
    pub close_device: unsafe extern "C" fn(*mut ibv_context) -> c_int,
    pub query_device: unsafe extern "C" fn(*mut ibv_context, *mut ibv_device_attr) -> c_int,
    pub query_port: unsafe extern "C" fn(*mut ibv_context, u8, *mut ibv_port_attr) -> c_int,
    pub query_gid: unsafe extern "C" fn(*mut ibv_context, u8, c_int, *mut ibv_gid) -> c_int,
    /// Newer libraries only; without it the kernel's own files say which GID is of which type.
    pub query_gid_table: Option<unsafe extern "C" fn(*mut ibv_context, *mut ibv_gid_entry, usize, u32, usize) -> isize>,
    pub alloc_pd: unsafe extern "C" fn(*mut ibv_context) -> *mut ibv_pd,
    pub dealloc_pd: unsafe extern "C" fn(*mut ibv_pd) -> c_int,
    pub reg_mr: unsafe extern "C" fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr,
    pub dereg_mr: unsafe extern "C" fn(*mut ibv_mr) -> c_int,
    pub create_comp_channel: unsafe extern "C" fn(*mut ibv_context) -> *mut ibv_comp_channel,
    pub destroy_comp_channel: unsafe extern "C" fn(*mut ibv_comp_channel) -> c_int,
    pub create_cq:
        unsafe extern "C" fn(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq,
    pub destroy_cq: unsafe extern "C" fn(*mut ibv_cq) -> c_int,
    pub get_cq_event: unsafe extern "C" fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int,
    pub ack_cq_events: unsafe extern "C" fn(*mut ibv_cq, u32),
    pub create_qp: unsafe extern "C" fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp,
    pub modify_qp: unsafe extern "C" fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int,
    pub destroy_qp: unsafe extern "C" fn(*mut ibv_qp) -> c_int,
    pub get_async_event: unsafe extern "C" fn(*mut ibv_context, *mut ibv_async_event) -> c_int,
    pub ack_async_event: unsafe extern "C" fn(*mut ibv_async_event),
}

/// A table of functions, and the promise that it stays.
pub struct Library {
    pub(super) table: Table,
}

impl Library {
    /// Loads the library from `path`, or by its usual name. It stays loaded for the life of the process: providers keep
    /// threads and registrations of their own.
    ///
    /// # Errors
    /// `Unavailable` when there is none, or it lacks a function.
    #[expect(clippy::missing_transmute_annotations, reason = "each function's type stands in `Table`, once")]
    pub fn load(path: Option<&Path>) -> Result<Arc<Self>, VerbsError> {
        let name = path.map_or_else(|| SONAME.to_owned(), |path| path.display().to_string());
        let c_name = CString::new(name.clone())
            .map_err(|_| VerbsError::Unavailable(format!("{name:?} is not the name of a library")))?;
        // SAFETY: the name is a live C string. Loading runs the library's initialisers, which libibverbs keeps harmless.
        let handle = unsafe { libc::dlopen(c_name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(VerbsError::Unavailable(format!(
                "{name} was not found; on Debian: apt-get install libibverbs1 ibverbs-providers"
            )));
        }
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: a live handle and C string; the function's type is that of the header, asserted field by field
                // for everything it takes.
                unsafe {
                    let address = libc::dlsym(handle, concat!($name, "\0").as_ptr().cast());
                    if address.is_null() {
                        return Err(VerbsError::Unavailable(format!("{name} lacks {}", $name)));
                    }
                    std::mem::transmute(address)
                }
            };
        }
        // SAFETY: as above; a null pointer becomes `None`.
        let query_gid_table = unsafe {
            let address = libc::dlsym(handle, c"_ibv_query_gid_table".as_ptr());
            std::mem::transmute::<
                *mut c_void,
                Option<unsafe extern "C" fn(*mut ibv_context, *mut ibv_gid_entry, usize, u32, usize) -> isize>,
            >(address)
        };
        let table = Table {
            get_device_list: symbol!("ibv_get_device_list"),
            free_device_list: symbol!("ibv_free_device_list"),
            get_device_name: symbol!("ibv_get_device_name"),
            open_device: symbol!("ibv_open_device"),
            close_device: symbol!("ibv_close_device"),
            query_device: symbol!("ibv_query_device"),
            query_port: symbol!("ibv_query_port"),
            query_gid: symbol!("ibv_query_gid"),
            query_gid_table,
            alloc_pd: symbol!("ibv_alloc_pd"),
            dealloc_pd: symbol!("ibv_dealloc_pd"),
            reg_mr: symbol!("ibv_reg_mr"),
            dereg_mr: symbol!("ibv_dereg_mr"),
            create_comp_channel: symbol!("ibv_create_comp_channel"),
            destroy_comp_channel: symbol!("ibv_destroy_comp_channel"),
            create_cq: symbol!("ibv_create_cq"),
            destroy_cq: symbol!("ibv_destroy_cq"),
            get_cq_event: symbol!("ibv_get_cq_event"),
            ack_cq_events: symbol!("ibv_ack_cq_events"),
            create_qp: symbol!("ibv_create_qp"),
            modify_qp: symbol!("ibv_modify_qp"),
            destroy_qp: symbol!("ibv_destroy_qp"),
            get_async_event: symbol!("ibv_get_async_event"),
            ack_async_event: symbol!("ibv_ack_async_event"),
        };
        Ok(Arc::new(Self { table }))
    }

    /// A library that is not libibverbs, for tests.
    ///
    /// # Safety
    /// The functions keep libibverbs' contracts: what they create stays until it is destroyed, and a context's table of
    /// operations is filled in.
    pub unsafe fn from_table(table: Table) -> Arc<Self> {
        Arc::new(Self { table })
    }

    /// Names of the devices there are.
    ///
    /// # Errors
    /// `Unavailable`: a library without a kernel behind it has no list at all.
    pub fn device_names(&self) -> Result<Vec<String>, VerbsError> {
        let list = DeviceList::get(self)?;
        Ok(list.devices().map(|device| list.name(device)).collect())
    }
}

/// The library's list of devices, freed when dropped. Devices opened from it live on.
pub(super) struct DeviceList<'a> {
    library: &'a Library,
    list: *mut *mut ibv_device,
    count: usize,
}

impl<'a> DeviceList<'a> {
    pub(super) fn get(library: &'a Library) -> Result<Self, VerbsError> {
        let mut count = 0;
        // SAFETY: `count` is live for the call.
        let list = unsafe { (library.table.get_device_list)(&raw mut count) };
        if list.is_null() {
            // ENOSYS: the kernel has no InfiniBand core, the usual case of a machine without RDMA.
            let cause = std::io::Error::last_os_error();
            return Err(VerbsError::Unavailable(format!("the kernel shows no RDMA devices ({cause})")));
        }
        Ok(Self { library, list, count: usize::try_from(count).unwrap_or(0) })
    }

    pub(super) fn devices(&self) -> impl Iterator<Item = *mut ibv_device> + '_ {
        // SAFETY: the library returned a list of `count` pointers, which lives until it is freed in `drop`.
        (0..self.count).map(|index| unsafe { *self.list.add(index) })
    }

    pub(super) fn name(&self, device: *mut ibv_device) -> String {
        // SAFETY: a device of this list, whose name is a C string that lives as long.
        unsafe {
            let name = (self.library.table.get_device_name)(device);
            if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
        }
    }
}

impl Drop for DeviceList<'_> {
    fn drop(&mut self) {
        // SAFETY: the list came from the library and is freed once.
        unsafe { (self.library.table.free_device_list)(self.list) }
    }
}
