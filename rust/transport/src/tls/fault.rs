//! What goes wrong under TLS, apart from the network.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::VARIABLES;

/// Why TLS could not be spoken with a peer. The display is a sentence without its subject, the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The peer has no certificates, and this side insists on them. Its sentence, where it gave one.
    PeerIsPlain(String),
    /// The peer's certificate is not good enough for this side.
    TheirCertificate(CertificateFault),
    /// This side's certificate is not good enough for the peer.
    OurCertificate(CertificateFault),
    /// What came was altered on its way, or never was TLS.
    Damaged(String),
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// Another authority signed it.
    UnknownAuthority,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// None was shown.
    Missing,
    /// It holds other names than the one its holder goes by.
    WrongName {
        /// What the holder calls itself.
        claimed: String,
        /// What the certificate says.
        held: Vec<String>,
    },
    /// Anything else, in the words of whoever looked.
    Bad(String),
}

impl TlsFault {
    /// The stable name.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PeerIsPlain(_) => "tls_mismatch",
            Self::TheirCertificate(_) | Self::OurCertificate(_) => "certificate_refused",
            Self::Damaged(_) => "bad_frame",
        }
    }

    /// Whether another connection may fare better: what one was damaged by need not be there on the next.
    pub const fn temporary(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }

    /// Makes an error of the system's kind out of it, to go up where those go.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }

    /// The fault inside an error of the system's kind, if there is one.
    pub(crate) fn of_io(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

impl From<Error> for TlsFault {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(cause) => Self::TheirCertificate(cause.into()),
            Error::NoCertificatesPresented => Self::TheirCertificate(CertificateFault::Missing),
            Error::AlertReceived(alert) => of_alert(alert),
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// What a peer means by an alert: those about certificates are about this side's.
fn of_alert(alert: AlertDescription) -> TlsFault {
    TlsFault::OurCertificate(match alert {
        AlertDescription::CertificateExpired => CertificateFault::Expired,
        AlertDescription::UnknownCA => CertificateFault::UnknownAuthority,
        AlertDescription::CertificateRequired => CertificateFault::Missing,
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => CertificateFault::Bad(format!("{alert:?}")),
        other => return TlsFault::Damaged(format!("it ended TLS with the alert {other:?}")),
    })
}

impl From<CertificateError> for CertificateFault {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            other => Self::Bad(other.to_string()),
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerIsPlain(said) if said.is_empty() => {
                write!(f, "has no TLS, and this process has; set {VARIABLES} on both machines or on neither")
            }
            Self::PeerIsPlain(said) => write!(f, "has no TLS, and this process has ({said})"),
            Self::TheirCertificate(fault) => write!(f, "showed a certificate that is refused: {fault}"),
            Self::OurCertificate(fault) => write!(f, "refused the certificate of this process: {fault}"),
            Self::Damaged(what) => write!(f, "sent what is no TLS of this connection: {what}"),
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAuthority => {
                f.write_str("another authority signed it; give every machine the same WEFT_TLS_CA")
            }
            Self::Expired => {
                f.write_str("it has expired; issue a new one with `weft tls issue`, and look at both clocks")
            }
            Self::NotYetValid => f.write_str("it is not valid yet; set both clocks by one time server"),
            Self::Missing => f.write_str("there was none; set WEFT_TLS_CERT and WEFT_TLS_KEY"),
            Self::WrongName { claimed, held } if held.is_empty() => {
                write!(
                    f,
                    "it holds no name of Weft's, and its holder goes by {claimed}; issue it with `weft tls issue`"
                )
            }
            Self::WrongName { claimed, held } => write!(
                f,
                "it is for {}, and its holder goes by {claimed}; set WEFT_TLS_CERT to one that was issued for that name",
                held.join(", ")
            ),
            Self::Bad(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for TlsFault {}
