//! What a node says of itself at the coordinator: queue pair, LID, GID and sequence number.
//!
//! The record names one queue pair, and one queue pair serves one peer. So the record says *that* and *where* a node speaks
//! RDMA, and every pair of peers agrees on queue pairs of its own over TCP. The one in the record stays unconnected.

use std::net::Ipv6Addr;

/// A node's RDMA half of the endpoint record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointRecord {
    /// Number of its queue pair, 24 bits.
    pub qpn: u32,
    /// Its address in a subnet; zero on Ethernet.
    pub lid: u16,
    /// Its global address.
    pub gid: [u8; 16],
    /// Sequence number, 24 bits.
    pub psn: u32,
}

/// A GID as it is written: like an IPv6 address.
pub fn gid_text(gid: &[u8; 16]) -> String {
    Ipv6Addr::from(*gid).to_string()
}

/// A GID as somebody wrote it: like an IPv6 address, or as 32 hexadecimal digits with or without `0x`.
pub fn parse_gid(text: &str) -> Option<[u8; 16]> {
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some(address.octets());
    }
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gid_is_read_in_both_spellings_and_written_as_an_address() {
        let gid = parse_gid("fe80::5054:ff:fe12:3456").unwrap();
        assert_eq!(gid_text(&gid), "fe80::5054:ff:fe12:3456");
        assert_eq!(parse_gid("fe80000000000000505400fffe123456"), Some(gid));
        assert_eq!(parse_gid("0xFE80000000000000505400FFFE123456"), Some(gid));
        assert_eq!(gid_text(&parse_gid("::ffff:10.0.2.15").unwrap()), "::ffff:10.0.2.15");
        for wrong in ["", "fe80", "fe80::12345", "+e80000000000000505400fffe123456"] {
            assert_eq!(parse_gid(wrong), None, "{wrong}");
        }
    }
}
