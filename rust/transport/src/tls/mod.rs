//! TLS 1.3 under the wire, for clusters that want what travels between machines to be unreadable on the way.
//!
//! Whether a process speaks TLS is settled when it starts, by the [`Tls`] its [`crate::Identity`] carries, and both ends
//! must agree: a node with certificates answers a peer without them with a refusal in plain text, and the other way round,
//! each naming the variables. Nothing ever falls back.
//!
//! Both sides show a certificate that the cluster's authority signed, and are called by a name it holds. Beneath TLS the
//! hellos of the wire go on as ever: the secret says who may be in the cluster, the certificate which machine it is.
//!
//! [`Stream`] is the edge at which a connection is one or the other; above it nobody knows which. Reading order: [`Tls`],
//! [`TlsStream`], [`Stream`]; [`Authority`] makes certificates.

mod authority;
mod buffers;
mod config;
mod fault;
mod records;
mod stream;
mod verify;

pub use authority::{Authority, Issued};
pub use config::{Part, Tls, TlsConfigError, VARIABLES};
pub use fault::{CertificateFault, TlsFault};
pub(crate) use records::TlsStream;
pub(crate) use stream::Stream;
