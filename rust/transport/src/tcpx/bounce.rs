//! The bounce buffer: memory, the book of it, and the two ends that meet there.

use std::io;
use std::net::TcpStream;

use weft_sys::memory::{Mapping, Span};
use weft_sys::socket::{self, Wait};
use weft_unpack::{Block, BlockError, Carved, Order, Piece, Pool, Slot, SlotError, carve, lay_out};

/// Most bytes one receive is asked for: beyond it the first bytes have left the cache before they are unpacked.
const RECEIVE_BYTES_MAX: u64 = 1 << 20;

/// How a bounce buffer is made.
#[derive(Clone, Copy, Debug)]
pub struct TcpxOptions {
    /// Its size, whole pages. What a device has not gathered yet must fit, or the stream stands.
    pub bounce_bytes: usize,
    /// In which order its pages are filled; shuffled is for tests, which want fragments as a card makes them.
    pub order: Order,
}

impl Default for TcpxOptions {
    fn default() -> Self {
        // Two of the receives above: one being unpacked, one arriving. Larger ones only leave the cache.
        Self { bounce_bytes: 2 << 20, order: Order::InTurn }
    }
}

/// The bounce buffer of one connection.
pub(super) struct Bounce {
    memory: Mapping,
    pool: Pool,
    pieces: Vec<Piece>,
}

impl Bounce {
    pub fn new(options: TcpxOptions) -> io::Result<Self> {
        let pool = Pool::new(options.bounce_bytes, options.order);
        Ok(Self { memory: Mapping::anonymous(options.bounce_bytes, true)?, pool, pieces: Vec::new() })
    }

    /// The buffer itself.
    pub fn span(&self) -> Span {
        self.memory.span()
    }

    /// Bytes that were received and not taken.
    pub fn waiting(&self) -> usize {
        usize::try_from(self.pool.waiting()).expect("a bounce buffer is below 4 GiB")
    }

    /// Whether there is room to receive into; if not, a slot has to come back first.
    pub fn has_room(&self) -> bool {
        self.pool.room() > 0
    }

    /// Receives what there is room for. Zero means that the peer closed; the caller saw that there is room.
    pub fn receive(&mut self, stream: &TcpStream, wait: Wait) -> io::Result<usize> {
        self.pieces.clear();
        self.pool.vacant(RECEIVE_BYTES_MAX, socket::SPANS_MAX, &mut self.pieces);
        let got = match self.pieces.as_slice() {
            [piece] => socket::receive(stream, &[part(&self.memory, *piece)], wait)?,
            pieces => {
                let spans: Vec<Span> = pieces.iter().map(|piece| part(&self.memory, *piece)).collect();
                socket::receive(stream, &spans, wait)?
            }
        };
        self.pool.receive(got as u64);
        Ok(got)
    }

    /// Copies the first bytes that wait into `target` and drops them; as many as wait or fit. Returns how many.
    pub fn take_bytes(&mut self, target: &mut [u8]) -> usize {
        let wanted = target.len().min(self.waiting());
        self.pieces.clear();
        self.pool.waiting_pieces(wanted as u64, usize::MAX, &mut self.pieces);
        let mut done = 0;
        for piece in &self.pieces {
            let end = done + piece.length as usize;
            part(&self.memory, *piece).copy_to(&mut target[done..end]);
            done = end;
        }
        self.pool.skip(done as u64);
        done
    }

    /// Drops the first bytes that wait, `bytes` of them at most. Returns how many.
    pub fn drop_bytes(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.waiting());
        self.pool.skip(bytes as u64);
        bytes
    }

    /// A block of what waits, for a sink elsewhere.
    pub fn carve(&mut self, bytes: u64, at: u64, target_bytes: u64) -> Result<Carved, BlockError> {
        carve(&mut self.pool, bytes, at, target_bytes, &[])
    }

    /// Takes back a slot of such a block.
    pub fn give_back(&mut self, slot: Slot) -> Result<(), SlotError> {
        self.pool.give_back(slot)
    }

    /// Unpacks what waits of an answer of `total` bytes into `target`, `done` of which are there. Returns how many are
    /// there now.
    pub fn unpack(&mut self, target: &[Span], mut done: usize, total: usize) -> usize {
        let (cuts, target_bytes) = boundaries(target);
        // No slot: the bytes are gone from here when the copy returns. Slots of earlier blocks may still be held elsewhere.
        while let Ok(Some(block)) = lay_out(&self.pool, (total - done) as u64, done as u64, target_bytes, &cuts) {
            self.copy(&block, target);
            done += usize::try_from(block.total_bytes()).expect("at most 4 MiB");
            self.pool.skip(block.total_bytes());
        }
        done
    }

    /// The CPU's sink over memory that others may touch, in as many parts as the caller has. Fragments come in the order of
    /// their targets here and none crosses a part's end: `carve` saw to both.
    fn copy(&self, block: &Block, target: &[Span]) {
        let (mut index, mut start) = (0, 0u64);
        for fragment in block.fragments() {
            while fragment.target >= start + target[index].len() as u64 {
                start += target[index].len() as u64;
                index += 1;
            }
            let length = fragment.length as usize;
            let at = usize::try_from(fragment.target - start).expect("inside a span");
            let source = self.span().part(fragment.source as usize, length).expect("the block was checked");
            source.copy_span_to(target[index].part(at, length).expect("the block was checked"));
        }
    }
}

/// Where each part but the last ends, and where the last does.
fn boundaries(target: &[Span]) -> (Vec<u64>, u64) {
    let mut end = 0;
    let mut cuts = Vec::new();
    for span in target {
        if end > 0 {
            cuts.push(end);
        }
        end += span.len() as u64;
    }
    (cuts, end)
}

fn part(memory: &Mapping, piece: Piece) -> Span {
    memory.span().part(piece.offset as usize, piece.length as usize).expect("a piece lies in the buffer")
}
