//! Where the bytes of records lie on their way: memory they are copied from and to, and records the kernel had no room for.

use weft_sys::memory::Span;

use super::TlsFault;

/// Records on their way to the kernel.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn sent(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Lets `write` write behind what waits; it says how much it wrote, or how much room it needs.
    pub fn append(
        &mut self,
        likely: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>,
    ) -> Result<(), TlsFault> {
        let mut needed = likely;
        for _ in 0..2 {
            if self.bytes.len() < self.end + needed && self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            if self.bytes.len() < self.end + needed {
                self.bytes.resize(self.end + needed, 0);
            }
            match write(&mut self.bytes[self.end..]) {
                Ok(0) => break,
                Ok(written) => {
                    self.end += written;
                    return Ok(());
                }
                Err(required) => needed = required,
            }
        }
        Err(TlsFault::Damaged("its keys are used up".to_owned()))
    }
}

/// Where received bytes go.
pub(super) struct Room<'a> {
    spans: &'a [Span],
    index: usize,
    offset: usize,
    /// Bytes that were put there.
    pub filled: usize,
}

impl<'a> Room<'a> {
    pub fn new(spans: &'a [Span]) -> Self {
        let mut room = Self { spans, index: 0, offset: 0, filled: 0 };
        room.skip_full();
        room
    }

    pub fn is_full(&self) -> bool {
        self.index == self.spans.len()
    }

    fn skip_full(&mut self) {
        while self.spans.get(self.index).is_some_and(|span| span.len() == self.offset) {
            self.index += 1;
            self.offset = 0;
        }
    }

    /// Copies what fits of `bytes`; how much that was.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && !self.is_full() {
            let span = self.spans[self.index];
            let length = (span.len() - self.offset).min(bytes.len() - done);
            span.part(self.offset, length).expect("within the span").copy_from(&bytes[done..done + length]);
            self.offset += length;
            done += length;
            self.skip_full();
        }
        self.filled += done;
        done
    }
}

/// Where bytes to be sent come from.
pub(super) struct Source<'a> {
    spans: &'a [Span],
    index: usize,
    offset: usize,
}

impl<'a> Source<'a> {
    pub fn new(spans: &'a [Span]) -> Self {
        Self { spans, index: 0, offset: 0 }
    }

    /// Copies the next bytes into `stage`; how many there were.
    pub fn take(&mut self, stage: &mut [u8]) -> usize {
        let mut done = 0;
        while done < stage.len() && self.index < self.spans.len() {
            let span = self.spans[self.index];
            let length = (span.len() - self.offset).min(stage.len() - done);
            span.part(self.offset, length).expect("within the span").copy_to(&mut stage[done..done + length]);
            self.offset += length;
            done += length;
            if self.offset == span.len() {
                self.index += 1;
                self.offset = 0;
            }
        }
        done
    }
}
