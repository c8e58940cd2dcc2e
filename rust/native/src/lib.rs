//! The seam to Python: converts and does nothing else.
//!
//! Every call that can wait gives up the GIL first; no thread of the engine ever takes it. `_native.pyi` is the contract,
//! and a test compares the two.

mod allocation;
mod buffer;
mod clock;
mod connection;
mod endpoint;
mod errors;
mod peer;
mod rdma;
mod report;
mod server;
mod tls;
mod transfer;
mod unpack;
mod window;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("LIMITS", report::limits(module.py())?)?;
    module.add_function(wrap_pyfunction!(report::wire_vectors, module)?)?;
    module.add_function(wrap_pyfunction!(report::machine_report, module)?)?;
    module.add_function(wrap_pyfunction!(rdma::use_rdma, module)?)?;
    module.add_function(wrap_pyfunction!(rdma::rdma_report, module)?)?;
    module.add_function(wrap_pyfunction!(tls::use_tls, module)?)?;
    module.add_function(wrap_pyfunction!(tls::leave_tls, module)?)?;
    module.add_function(wrap_pyfunction!(tls::tls_names, module)?)?;
    module.add_function(wrap_pyfunction!(tls::make_authority, module)?)?;
    module.add_function(wrap_pyfunction!(tls::issue_certificate, module)?)?;
    module.add_class::<server::Server>()?;
    module.add_class::<window::Window>()?;
    module.add_class::<endpoint::Endpoint>()?;
    module.add_class::<allocation::Allocation>()?;
    module.add_class::<peer::Peer>()?;
    module.add_class::<peer::Advert>()?;
    module.add_class::<transfer::Transfer>()?;
    module.add_class::<transfer::Notifier>()?;
    module.add_class::<unpack::UnpackBlock>()?;
    module.add_class::<unpack::BounceConnection>()?;
    Ok(())
}
