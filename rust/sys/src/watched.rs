//! What the kernel says of a range of this process's memory: whether somebody brings its missing pages.

use std::io;
use std::io::BufRead;

use crate::memory::Span;

/// Whether any part of `span` is registered with a userfaultfd, of this process or of a pager's elsewhere.
///
/// # Errors
/// `InvalidInput` when a part of the range is not mapped; whatever reading `/proc` meets.
pub fn by_userfaultfd(span: Span) -> io::Result<bool> {
    let (first, last) = (span.base() as usize, span.base() as usize + span.len());
    let mut covered = 0;
    let mut inside = false;
    for line in io::BufReader::new(std::fs::File::open("/proc/self/smaps")?).lines() {
        let line = line?;
        if let Some((start, end)) = bounds(&line) {
            inside = start < last && first < end;
            if inside {
                covered += end.min(last) - start.max(first);
            }
        } else if inside && line.starts_with("VmFlags:") {
            // um: missing pages, uw: write protection, ui: minor faults.
            if line.split_ascii_whitespace().any(|flag| matches!(flag, "um" | "uw" | "ui")) {
                return Ok(true);
            }
        }
    }
    if covered == span.len() {
        Ok(false)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "a part of the range is not mapped"))
    }
}

/// The range of a mapping's first line, `start-end rights …` in hexadecimal.
fn bounds(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Mapping;

    #[test]
    fn ordinary_memory_is_watched_by_nobody_and_unmapped_memory_is_an_error() {
        let mapping = Mapping::anonymous(4 << 12, true).unwrap();
        assert!(!by_userfaultfd(mapping.span()).unwrap());
        let span = mapping.span();
        drop(mapping);
        assert!(by_userfaultfd(span).is_err());
    }
}
