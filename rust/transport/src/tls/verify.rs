//! Who a certificate is for, and whether the cluster's authority signed it.
//!
//! Names are Weft's: a node's id, letter for letter, as the URI `weft:ID`. Host names and addresses do not come into it,
//! because a node keeps its name when it moves; for those who run an authority of their own, a DNS name counts as well.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use webpki::EndEntityCert;

/// What stands before a node's id in a certificate.
pub(crate) const NAME_SCHEME: &str = "weft:";

/// The names a certificate holds.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Error> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let ours = parsed.valid_uri_names().filter_map(|name| name.strip_prefix(NAME_SCHEME));
    Ok(ours.chain(parsed.valid_dns_names()).map(str::to_owned).collect())
}

/// Whether the holder of these names may go by `name`: one of them, or one of them, a colon, and whatever tells processes
/// of a machine apart. No node's id has a colon, so nobody can pass for another node.
pub(crate) fn covers(names: &[String], name: &str) -> bool {
    names
        .iter()
        .any(|held| name.strip_prefix(held.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')))
}

/// Takes a server's certificate if the cluster's authority signed it and its time is now. Its name is looked at once the
/// server has said what it is called, in the hello that follows.
#[derive(Debug)]
pub(crate) struct SignedByCluster {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SignedByCluster {
    pub fn new(roots: Arc<RootCertStore>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { roots, algorithms }
    }

    pub fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for SignedByCluster {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
