//! A cluster's authority: it signs a certificate for each machine.
//!
//! It is a key and a certificate, kept where the operator keeps such things; no process of Weft reads the key while the
//! cluster runs. What can be made with any other tool is made here so that two commands are enough.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

use super::verify::NAME_SCHEME;

/// What an authority is called in its certificate, before the first digits of its key's hash: two that differ have two
/// names, and the key alone is enough to sign with.
const AUTHORITY_NAME: &str = "Weft cluster authority";
/// How many bytes of it: enough to tell the clusters of one operator apart.
const NAME_BYTES: usize = 8;
/// Clocks of a cluster differ; a certificate counts from so long before it was made.
const BACKDATED_S: i64 = 300;

/// What was made, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, from `now_s` of the Unix clock for `lasts_s` seconds.
    ///
    /// # Errors
    /// A sentence, when the machine has no randomness or the time is out of range.
    pub fn make(now_s: i64, lasts_s: i64) -> Result<Issued, String> {
        let key = KeyPair::generate().map_err(sentence)?;
        let mut params = authority_params(&key);
        within(&mut params, now_s, lasts_s)?;
        let certificate = params.self_signed(&key).map_err(sentence)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The one with this key.
    ///
    /// # Errors
    /// A sentence, when it is no key in PEM.
    pub fn of_key(key: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key).map_err(sentence)?;
        Ok(Self { issuer: Issuer::new(authority_params(&key), key) })
    }

    /// A certificate for `names`, the first of them the machine's, from `now_s` of the Unix clock for `lasts_s` seconds.
    ///
    /// # Errors
    /// A sentence, when a name is no text of ASCII or the time is out of range.
    pub fn issue(&self, names: &[String], now_s: i64, lasts_s: i64) -> Result<Issued, String> {
        let Some(first) = names.first() else { return Err("a certificate is for at least one name".to_owned()) };
        let key = KeyPair::generate().map_err(sentence)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, first.clone());
        for name in names {
            let uri = format!("{NAME_SCHEME}{name}").try_into().map_err(sentence)?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        let mut serial = [0; 16];
        weft_sys::random::fill(&mut serial).map_err(|error| format!("no randomness: {error}"))?;
        serial[0] &= 0x7f;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every node is both: it serves its own memory and reaches for others'.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        within(&mut params, now_s, lasts_s)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(sentence)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let digits: String = params.key_identifier(key).iter().take(NAME_BYTES).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{AUTHORITY_NAME} {digits}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn within(params: &mut CertificateParams, now_s: i64, lasts_s: i64) -> Result<(), String> {
    let at = |second: i64| {
        OffsetDateTime::from_unix_timestamp(second).map_err(|_| format!("second {second} is no time of a calendar"))
    };
    params.not_before = at(now_s.saturating_sub(BACKDATED_S))?;
    params.not_after = at(now_s.saturating_add(lasts_s))?;
    Ok(())
}

fn sentence(error: impl std::fmt::Display) -> String {
    error.to_string()
}
