//! What a process needs to speak TLS: the cluster's authority, its own certificate, its own key.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};

use super::verify::{SignedByCluster, covers, names};
use super::{CertificateFault, TlsFault};

/// The variables that say it, as they are named in every sentence about them.
pub const VARIABLES: &str = "WEFT_TLS_CA, WEFT_TLS_CERT and WEFT_TLS_KEY";
/// What the two ends agree to speak inside, so that a certificate of this cluster is worth nothing to another protocol.
const PROTOCOL: &[u8] = b"weft/1";

/// Which of the three a sentence is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The authority's certificate.
    Authority,
    /// This process's certificate, and those between it and the authority.
    Certificate,
    /// This process's key.
    Key,
}

impl Part {
    /// The variable it comes from.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Authority => "WEFT_TLS_CA",
            Self::Certificate => "WEFT_TLS_CERT",
            Self::Key => "WEFT_TLS_KEY",
        }
    }
}

/// Why a process cannot speak TLS with what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfigError {
    /// What is wrong with it.
    pub part: Part,
    /// How; the display begins with the variable.
    pub what: String,
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.part.variable(), self.what)
    }
}

impl std::error::Error for TlsConfigError {}

/// How this process speaks TLS, on both ends of its connections.
#[derive(Clone)]
pub struct Tls {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
    signed: Arc<SignedByCluster>,
    names: Vec<String>,
}

impl Tls {
    /// Reads the three, each in PEM. They must belong together; whether the certificate is good is asked by
    /// [`Tls::check`].
    ///
    /// # Errors
    /// What is no PEM, a certificate without a name, and a key that is another certificate's.
    pub fn from_pem(authority: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, TlsConfigError> {
        Self::from_pem_with(authority, certificate, key, provider())
    }

    pub(crate) fn from_pem_with(
        authority: &[u8],
        certificate: &[u8],
        key: &[u8],
        provider: CryptoProvider,
    ) -> Result<Self, TlsConfigError> {
        let wrong = |part: Part| move |what: String| TlsConfigError { part, what };
        let mut roots = RootCertStore::empty();
        for root in certificates(authority).map_err(wrong(Part::Authority))? {
            roots.add(root).map_err(|error| wrong(Part::Authority)(format!("holds no authority: {error}")))?;
        }
        let chain = certificates(certificate).map_err(wrong(Part::Certificate))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| wrong(Part::Key)(format!("holds no private key in PEM: {error}")))?;
        let names = names(&chain[0]).map_err(|error| wrong(Part::Certificate)(unusable(&error)))?;
        if names.is_empty() {
            return Err(wrong(Part::Certificate)(
                "holds a certificate without a node's name; make one with `weft tls issue`".to_owned(),
            ));
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(provider);
        let algorithms = provider.signature_verification_algorithms;
        let signed = Arc::new(SignedByCluster::new(Arc::clone(&roots), algorithms));
        let mismatched = |error: Error| match error {
            Error::InconsistentKeys(_) => wrong(Part::Key)("is not the key of the certificate in WEFT_TLS_CERT".into()),
            other => wrong(Part::Key)(format!("cannot be used: {other}")),
        };
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&signed) as Arc<_>)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(mismatched)?;
        // Every connection shows its certificate anew: one that was withdrawn or ran out is not let in by an old ticket.
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        let everybody = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| wrong(Part::Authority)(format!("cannot be used: {error}")))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(everybody)
            .with_single_cert(chain.clone(), key)
            .map_err(mismatched)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server), chain, signed, names })
    }

    /// Whether the certificate is one that peers will take: signed by the authority beside it, and valid now.
    ///
    /// # Errors
    /// A sentence about the certificate.
    pub fn check(&self) -> Result<(), TlsConfigError> {
        self.signed.check(&self.chain[0], &self.chain[1..], UnixTime::now()).map_err(|error| {
            let what = match TlsFault::from(error) {
                TlsFault::TheirCertificate(CertificateFault::UnknownAuthority) => {
                    "was not signed by the authority in WEFT_TLS_CA".to_owned()
                }
                TlsFault::TheirCertificate(CertificateFault::Expired) => {
                    "has expired; issue a new one with `weft tls issue`".to_owned()
                }
                TlsFault::TheirCertificate(fault) => format!("is not good: {fault}"),
                other => format!("is not good: it {other}"),
            };
            TlsConfigError { part: Part::Certificate, what }
        })
    }

    /// The names of the certificate, the first of them this machine's.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What a process of this machine that would go by `name` goes by: the name itself where the certificate covers it,
    /// else the machine's name, a colon, and the name.
    pub fn name_for(&self, name: &str) -> String {
        if covers(&self.names, name) {
            return name.to_owned();
        }
        let mut whole = format!("{}:{name}", self.names[0]);
        let mut end = whole.len().min(weft_wire::NAME_BYTES_MAX);
        while !whole.is_char_boundary(end) {
            end -= 1;
        }
        whole.truncate(end);
        whole
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("names", &self.names).finish_non_exhaustive()
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("holds no certificate in PEM: {error}"))?;
    if found.is_empty() {
        return Err("holds no certificate in PEM".to_owned());
    }
    Ok(found)
}

fn unusable(error: &Error) -> String {
    format!("holds a certificate that cannot be read: {error}")
}

/// ring's, with the suites that machines of this kind are fastest at: a key of 128 bits is as good as the curve's.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}
