//! The handshake: both sides prove that they know the cluster's secret, and nobody sends it.
//!
//! ```text
//! client → hello, tag 1: cluster_id [16] nonce [32] incarnation u64 name
//! server → hello, tag 2: nonce [32] proof [32] incarnation u64 name      (or a refusal: version, cluster)
//! client → hello, tag 3: proof [32]
//! server → reply                                                        (or a refusal: secret)
//! ```
//!
//! A proof is HMAC-SHA256 under the hello key of the prover's role and both opening frames' payloads, so a proof of one
//! role, connection or cluster is worth nothing in another. What if an answer is lost? Each side has a deadline for the
//! whole handshake and closes; nothing is remembered of it.

use crate::grant::{authenticate, verifies};
use crate::{NAME_BYTES_MAX, WireError};

/// The key proofs are made with, derived from the cluster's secret.
pub fn hello_key(secret: &[u8]) -> [u8; 32] {
    authenticate(secret, b"weft/1 hello")
}

/// The abstract UNIX socket at which one life of a lender hands its extents to processes of its machine. Whoever knows the
/// cluster's secret can say it; nobody else can take it beforehand, though all can see it once it is there.
pub fn near_socket(hello_key: &[u8; 32], cluster_id: &[u8; 16], lender: &str, incarnation: u64) -> String {
    let mut message = b"weft/1 near".to_vec();
    message.extend_from_slice(cluster_id);
    message.extend_from_slice(&incarnation.to_le_bytes());
    message.extend_from_slice(lender.as_bytes());
    let digest = authenticate(hello_key, &message);
    let number = u128::from_le_bytes(digest[..16].try_into().expect("sixteen bytes"));
    format!("weft-near-{number:032x}")
}

/// The steps, as the `tag` of a hello frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Hello {
    /// The client opens.
    Client = 1,
    /// The server answers and proves.
    Server = 2,
    /// The client proves.
    Proof = 3,
}

/// What a client opens with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The cluster the client belongs to.
    pub cluster_id: [u8; 16],
    /// Fresh randomness.
    pub nonce: [u8; 32],
    /// The client's life.
    pub incarnation: u64,
    /// The client's node or process name.
    pub name: String,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// Fresh randomness.
    pub nonce: [u8; 32],
    /// That the server knows the secret.
    pub proof: [u8; 32],
    /// The server's life.
    pub incarnation: u64,
    /// The server's node name.
    pub name: String,
}

/// What a client proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientProof {
    /// That the client knows the secret.
    pub proof: [u8; 32],
}

impl ClientHello {
    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(56 + self.name.len());
        bytes.extend_from_slice(&self.cluster_id);
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// Parses what a client sent.
    ///
    /// # Errors
    /// A wrong length or a name that is not text.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() < 56 {
            return Err(WireError::Payload("a client hello has at least 56 bytes"));
        }
        Ok(Self {
            cluster_id: bytes[..16].try_into().expect("sixteen bytes"),
            nonce: bytes[16..48].try_into().expect("thirty-two bytes"),
            incarnation: u64::from_le_bytes(bytes[48..56].try_into().expect("eight bytes")),
            name: name(&bytes[56..])?,
        })
    }
}

impl ServerHello {
    /// The answer of a server with this key to `client`.
    pub fn prove(key: &[u8; 32], client: &ClientHello, nonce: [u8; 32], incarnation: u64, name: &str) -> Self {
        let proof = authenticate(key, &transcript(b"server", client, &nonce, incarnation, name));
        Self { nonce, proof, incarnation, name: name.to_owned() }
    }

    /// Whether the server that sent this knows the secret behind `key`.
    pub fn verifies(&self, key: &[u8; 32], client: &ClientHello) -> bool {
        verifies(key, &transcript(b"server", client, &self.nonce, self.incarnation, &self.name), &self.proof)
    }

    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(72 + self.name.len());
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&self.proof);
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// Parses what a server sent.
    ///
    /// # Errors
    /// A wrong length or a name that is not text.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() < 72 {
            return Err(WireError::Payload("a server hello has at least 72 bytes"));
        }
        Ok(Self {
            nonce: bytes[..32].try_into().expect("thirty-two bytes"),
            proof: bytes[32..64].try_into().expect("thirty-two bytes"),
            incarnation: u64::from_le_bytes(bytes[64..72].try_into().expect("eight bytes")),
            name: name(&bytes[72..])?,
        })
    }
}

impl ClientProof {
    /// The client's proof, after the server's was verified.
    pub fn prove(key: &[u8; 32], client: &ClientHello, server: &ServerHello) -> Self {
        let transcript = transcript(b"client", client, &server.nonce, server.incarnation, &server.name);
        Self { proof: authenticate(key, &transcript) }
    }

    /// Whether the client that sent this knows the secret behind `key`.
    pub fn verifies(&self, key: &[u8; 32], client: &ClientHello, server: &ServerHello) -> bool {
        verifies(key, &transcript(b"client", client, &server.nonce, server.incarnation, &server.name), &self.proof)
    }

    /// Parses what a client sent.
    ///
    /// # Errors
    /// A wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Ok(Self { proof: bytes.try_into().map_err(|_| WireError::Payload("a client proof has 32 bytes"))? })
    }
}

fn transcript(role: &[u8; 6], client: &ClientHello, nonce: &[u8; 32], incarnation: u64, server_name: &str) -> Vec<u8> {
    let client = client.encode();
    let mut bytes = Vec::with_capacity(64 + client.len() + server_name.len());
    bytes.extend_from_slice(b"weft hello 1 ");
    bytes.extend_from_slice(role);
    bytes.extend_from_slice(&(client.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&client);
    bytes.extend_from_slice(nonce);
    bytes.extend_from_slice(&incarnation.to_le_bytes());
    bytes.extend_from_slice(server_name.as_bytes());
    bytes
}

fn name(bytes: &[u8]) -> Result<String, WireError> {
    if bytes.len() > NAME_BYTES_MAX {
        return Err(WireError::Payload("a name is longer than 256 bytes"));
    }
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| WireError::Payload("a name is not utf-8"))
}
