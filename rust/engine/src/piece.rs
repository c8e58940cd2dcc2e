//! A transfer cut into what one request carries.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use weft_sys::memory::Span;
use weft_transport::{Payload, Submission};
use weft_wire::{Advert, Grant, Header, Kind, PAYLOAD_BYTES_MAX, RANGES_MAX, Range};

use crate::Failure;

/// Which way bytes go, seen from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the advert into this side's memory.
    Read,
    /// From this side's memory into the advert.
    Write,
}

/// A stretch of one advert, and the memory beside it.
#[derive(Clone, Debug)]
pub struct Part {
    /// What is reached.
    pub advert: Arc<Advert>,
    /// Where in it.
    pub offset: u64,
    /// This side's memory; its length is the stretch's.
    pub span: Span,
}

/// What one request carries: ranges of one advert.
#[derive(Clone, Debug)]
pub struct Piece {
    /// What is reached.
    pub advert: Arc<Advert>,
    /// Where the first range begins.
    pub offset: u64,
    /// The ranges; empty for one.
    pub ranges: Arc<[Range]>,
    /// This side's memory.
    pub spans: Vec<Span>,
    /// Bytes in all.
    pub length: u64,
}

static NO_RANGES: LazyLock<Arc<[Range]>> = LazyLock::new(|| Arc::new([]));

/// An empty list of ranges, which costs nothing.
pub fn no_ranges() -> Arc<[Range]> {
    Arc::clone(&NO_RANGES)
}

impl Piece {
    /// As it is submitted under `id`, to a lane that knows the advert by `handle`.
    pub fn submission(&self, id: u64, direction: Direction, handle: u64) -> Submission {
        let kind = if direction == Direction::Read { Kind::Read } else { Kind::Write };
        let mut header = Header::new(kind, 0);
        header.handle = handle;
        header.offset = self.offset;
        header.length = self.length;
        let (payload, into) = match direction {
            Direction::Read => (Payload::Empty, self.spans.clone()),
            Direction::Write => (Payload::Spans(self.spans.clone()), Vec::new()),
        };
        Submission { id, header, ranges: Arc::clone(&self.ranges), payload, into }
    }
}

/// Refuses what cannot be carried out, before a byte moves: a vector moves whole or not at all.
///
/// # Errors
/// `bad_argument`, `out_of_range` or `read_only`, naming the part.
pub fn check(direction: Direction, parts: &[Part]) -> Result<u64, Failure> {
    let Some(first) = parts.first() else {
        return Err(Failure::argument("the vector is empty; name at least one range"));
    };
    let mut total = 0u64;
    let mut seen: HashMap<u64, &Arc<Advert>> = HashMap::new();
    for (index, part) in parts.iter().enumerate() {
        let length = part.span.len() as u64;
        if !Arc::ptr_eq(&part.advert, &first.advert) {
            let known = seen.entry(part.advert.buffer).or_insert(&part.advert);
            let first_too = first.advert.buffer == part.advert.buffer;
            if !known.opens_the_same(&part.advert) || (first_too && !first.advert.opens_the_same(&part.advert)) {
                let detail = format!("part {index} names a buffer by another advert than a part before it; use one");
                return Err(Failure::argument(detail).at(&part.advert.region(), part.offset));
            }
        }
        let region = || part.advert.region();
        if length == 0 {
            return Err(Failure::argument(format!("buffer {index} is empty; each needs at least one byte")));
        }
        if part.offset.checked_add(length).is_none_or(|end| end > part.advert.size_bytes) {
            let end = part.offset.saturating_add(length);
            let detail = format!(
                "bytes {}..{end} are outside the advert, which has {} bytes (part {index})",
                part.offset, part.advert.size_bytes
            );
            return Err(Failure::new("out_of_range", &part.advert.owner, detail).at(&region(), part.offset));
        }
        if direction == Direction::Write && !part.advert.writable {
            let detail =
                format!("the advert may only be read (part {index}); ask its owner for one that may be written");
            return Err(Failure::new("read_only", &part.advert.owner, detail).at(&region(), part.offset));
        }
        total = total.saturating_add(length);
    }
    Ok(total)
}

/// What the owners of a write are asked before its first byte goes.
#[derive(Debug)]
pub struct Inquiry {
    /// Reads of the first and the last byte of what is written to each advert.
    pub pieces: Vec<Piece>,
    /// Where those bytes go. Nobody looks at them: that they come says that the advert is good.
    _room: Box<[u8]>,
}

/// The inquiry before pieces are written, where one frame does not carry them all: a frame is judged whole by the owner of
/// its advert, and between frames nothing else would keep the first from being written when the last is refused.
///
/// What if an advert ends between the answer and its bytes? Then the write fails in the middle, as when a peer dies.
///
/// # Errors
/// `read_only` where a grant gives no right to write, whatever its advert says.
pub fn inquire(direction: Direction, pieces: &[Piece]) -> Result<Option<Inquiry>, Failure> {
    if direction == Direction::Read || pieces.len() < 2 {
        return Ok(None);
    }
    let mut ends: Vec<(&Arc<Advert>, u64, u64)> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for piece in pieces {
        let single = [Range { offset: piece.offset, length: piece.length }];
        let ranges = if piece.ranges.is_empty() { &single[..] } else { &piece.ranges };
        let place = *places.entry(piece.advert.buffer).or_insert_with(|| {
            ends.push((&piece.advert, u64::MAX, 0));
            ends.len() - 1
        });
        for range in ranges {
            let (_, first, last) = &mut ends[place];
            *first = (*first).min(range.offset);
            *last = (*last).max(range.offset + range.length - 1);
        }
    }
    let mut room = vec![0u8; ends.len() * 2].into_boxed_slice();
    let mut pieces = Vec::with_capacity(ends.len());
    for ((advert, first, last), bytes) in ends.into_iter().zip(room.chunks_exact_mut(2)) {
        if Grant::claimed_rights(&advert.grant).is_some_and(|rights| !rights.can_write()) {
            let detail = "its grant gives no right to write, whatever the advert says; ask its owner for one that does";
            return Err(Failure::new("read_only", &advert.owner, detail).at(&Advert::region_id(advert.buffer), first));
        }
        let ranges: Arc<[Range]> =
            if first == last { no_ranges() } else { [first, last].map(|offset| Range { offset, length: 1 }).into() };
        let length = ranges.len().max(1);
        let spans = vec![Span::of(&mut bytes[..length])];
        pieces.push(Piece { advert: Arc::clone(advert), offset: first, ranges, spans, length: length as u64 });
    }
    Ok(Some(Inquiry { pieces, _room: room }))
}

/// A piece to which more may come: its advert, ranges, memory and bytes.
type Begun = (Arc<Advert>, Vec<Range>, Vec<Span>, u64);

/// Cuts parts into pieces of at most `piece_bytes_max`, parts of one advert that follow each other together.
pub fn cut(parts: &[Part], piece_bytes_max: u64) -> Vec<Piece> {
    assert!(piece_bytes_max > 0 && piece_bytes_max <= PAYLOAD_BYTES_MAX, "a piece fits one frame");
    if let [part] = parts
        && part.span.len() as u64 <= piece_bytes_max
    {
        return vec![Piece {
            advert: Arc::clone(&part.advert),
            offset: part.offset,
            ranges: no_ranges(),
            spans: vec![part.span],
            length: part.span.len() as u64,
        }];
    }
    let mut pieces = Vec::new();
    let mut open: Option<Begun> = None;
    let close = |open: &mut Option<Begun>, pieces: &mut Vec<Piece>| {
        if let Some((advert, ranges, spans, length)) = open.take() {
            let offset = ranges[0].offset;
            let ranges = if ranges.len() == 1 { no_ranges() } else { ranges.into() };
            pieces.push(Piece { advert, offset, ranges, spans, length });
        }
    };
    for part in parts {
        let mut done = 0usize;
        while done < part.span.len() {
            if open.as_ref().is_some_and(|(advert, ranges, _, length)| {
                advert.buffer != part.advert.buffer || ranges.len() == RANGES_MAX as usize || *length == piece_bytes_max
            }) {
                close(&mut open, &mut pieces);
            }
            let (_, ranges, spans, length) =
                open.get_or_insert_with(|| (Arc::clone(&part.advert), Vec::new(), Vec::new(), 0));
            let rest = (part.span.len() - done) as u64;
            let take = rest.min(piece_bytes_max - *length);
            let offset = part.offset + done as u64;
            match ranges.last_mut() {
                Some(last) if last.offset + last.length == offset => last.length += take,
                _ => ranges.push(Range { offset, length: take }),
            }
            let take_bytes = usize::try_from(take).expect("a piece fits one frame");
            spans.push(part.span.part(done, take_bytes).expect("within the span"));
            *length += take;
            done += take_bytes;
        }
    }
    close(&mut open, &mut pieces);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advert(buffer: u64, size_bytes: u64, writable: bool) -> Arc<Advert> {
        let (incarnation, owner, extent) = (1, "owner".to_owned(), None);
        Arc::new(Advert { buffer, incarnation, size_bytes, writable, owner, grant: Arc::new([]), extent })
    }

    fn part(advert: &Arc<Advert>, offset: u64, bytes: &mut [u8]) -> Part {
        Part { advert: Arc::clone(advert), offset, span: Span::of(bytes) }
    }

    #[test]
    fn pieces_cover_every_byte_once_and_in_order() {
        let advert = advert(1, 1 << 30, true);
        let mut memory = vec![0u8; 10_000];
        let parts: Vec<Part> =
            (0..10).map(|index| part(&advert, index as u64 * 5_000, &mut memory[index * 1_000..][..1_000])).collect();
        let pieces = cut(&parts, 1_700);
        assert_eq!(pieces.iter().map(|piece| piece.length).sum::<u64>(), 10_000);
        let mut expected = memory.as_ptr() as usize;
        for piece in &pieces {
            assert!(piece.length <= 1_700);
            for span in &piece.spans {
                assert_eq!(span.base() as usize, expected);
                expected += span.len();
            }
        }
    }

    #[test]
    fn neighbours_become_one_range_and_adverts_stay_apart() {
        let (first, second) = (advert(1, 100, true), advert(2, 100, true));
        let mut memory = [0u8; 30];
        let (one, rest) = memory.split_at_mut(10);
        let (two, three) = rest.split_at_mut(10);
        let pieces = cut(&[part(&first, 0, one), part(&first, 10, two), part(&second, 20, three)], 1_000);
        assert_eq!(pieces.len(), 2);
        assert!(pieces[0].ranges.is_empty() && pieces[0].length == 20 && pieces[0].spans.len() == 2);
        assert_eq!((pieces[1].advert.buffer, pieces[1].offset), (2, 20));
    }

    #[test]
    fn a_vector_with_one_bad_part_is_refused_whole() {
        let advert = advert(7, 100, false);
        let mut memory = [0u8; 60];
        let (good, bad) = memory.split_at_mut(30);
        let parts = [part(&advert, 0, good), part(&advert, 71, bad)];
        assert_eq!(check(Direction::Read, &parts).unwrap_err().code, "out_of_range");
        assert_eq!(check(Direction::Write, &parts[..1]).unwrap_err().code, "read_only");
        assert_eq!(check(Direction::Read, &[part(&advert, u64::MAX, &mut [0; 2])]).unwrap_err().code, "out_of_range");
        assert_eq!(check(Direction::Read, &[]).unwrap_err().code, "bad_argument");
        assert_eq!(check(Direction::Read, &parts[..1]), Ok(30));
    }
}
