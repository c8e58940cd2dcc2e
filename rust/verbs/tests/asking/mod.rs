//! What a borrower asks of a lane, in a line each.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Instant;

use weft_sys::memory::Span;
use weft_transport::{Lane, Request, TransportError};
use weft_wire::{Header, Kind, encode_opening};

use super::world::{LENDER_LIFE, soon};

pub fn open(lane: &mut dyn Lane, writer: u64, grant: &[u8]) -> u64 {
    let opening = encode_opening(writer, 1);
    let mut header = Header::new(Kind::Open, 0);
    header.tag = LENDER_LIFE;
    header.length = (opening.len() + grant.len()) as u64;
    let payload = [Span::of_const(&opening), Span::of_const(grant)];
    lane.post(Request { header, ranges: &[], payload: &payload }, soon()).unwrap();
    lane.begin(&[], soon()).unwrap().header.handle
}

pub fn header(kind: Kind, handle: u64, offset: u64, length: usize) -> Header {
    Header { handle, offset, length: length as u64, ..Header::new(kind, 0) }
}

pub fn write(lane: &mut dyn Lane, handle: u64, offset: u64, bytes: &[u8]) -> Result<(), TransportError> {
    let header = header(Kind::Write, handle, offset, bytes.len());
    lane.post(Request { header, ranges: &[], payload: &[Span::of_const(bytes)] }, soon())?;
    lane.begin(&[], soon()).map(drop)
}

pub fn read(lane: &mut dyn Lane, handle: u64, offset: u64, length: usize) -> Result<Vec<u8>, TransportError> {
    read_until(lane, handle, offset, length, soon())
}

pub fn read_until(
    lane: &mut dyn Lane,
    handle: u64,
    offset: u64,
    length: usize,
    deadline: Instant,
) -> Result<Vec<u8>, TransportError> {
    let mut bytes = vec![1; length];
    let into = [Span::of(&mut bytes)];
    lane.post(Request { header: header(Kind::Read, handle, offset, length), ranges: &[], payload: &[] }, deadline)?;
    let reply = lane.begin(&into, deadline)?;
    if reply.bytes() == 0 {
        bytes.fill(0);
    } else {
        lane.fill(&into, reply.filled, length, deadline)?;
    }
    Ok(bytes)
}
