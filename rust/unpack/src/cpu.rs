//! The CPU's sink.

use crate::block::{Block, BlockError, Ends};

/// Moves every fragment of `block` from `bounce` to `target`.
///
/// One copy a fragment is all there is to it: the C library's copy is as fast at every alignment as anything written here
/// by hand, and no order of the fragments was found to matter.
///
/// # Errors
/// `OtherMemory` when the slices are not of the lengths that the block was checked against. Nothing was written then.
pub fn unpack(block: &Block, bounce: &[u8], target: &mut [u8]) -> Result<(), BlockError> {
    block.fits(Ends { bounce_bytes: bounce.len() as u64, target_bytes: target.len() as u64 })?;
    for fragment in block.fragments() {
        let (source, length) = (fragment.source as usize, fragment.length as usize);
        let at = usize::try_from(fragment.target).expect("inside a slice");
        target[at..at + length].copy_from_slice(&bounce[source..source + length]);
    }
    Ok(())
}
