//! Where a region's bytes live: from an offset to an extent and an offset in it, by division.
//!
//! A region is a row of *bands*. Inside a band the stripes go round its extents in turn: stripe `s` of a band of `n`
//! extents lies in extent `(s - first) % n`, as that extent's stripe `(s - first) / n`. Lenders with unequal room make
//! several bands, each over those that still have some.

/// One band.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// The region's stripe that the band begins with.
    pub first_stripe: u64,
    /// How many stripes it has.
    pub stripes: u64,
    /// The extents its stripes go round, by their index in the region.
    pub extents: Vec<u32>,
}

/// Where a byte lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The extent's index in the region.
    pub extent: u32,
    /// The byte's offset in the extent.
    pub offset: u64,
    /// How many bytes from this one on lie there without a break, as they do in the region.
    pub contiguous: u64,
}

/// Why a layout is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// A stripe is a power of two and at least a page.
    StripeSize,
    /// A band without stripes or without extents.
    EmptyBand,
    /// A band does not begin where the one before it ended, or the region is larger than 64 bits.
    Gap,
    /// An extent stands in two bands, or twice in one.
    RepeatedExtent,
}

impl std::fmt::Display for LayoutError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::StripeSize => "a stripe is a power of two and at least a page",
            Self::EmptyBand => "a band has no stripes or no extents",
            Self::Gap => "a band does not begin where the one before it ends",
            Self::RepeatedExtent => "an extent stands in the layout twice",
        })
    }
}

impl std::error::Error for LayoutError {}

/// A region's layout, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    stripe_bytes: u64,
    bands: Vec<Band>,
}

impl Layout {
    /// Checks and keeps `bands`, which are ascending and without gaps.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(stripe_bytes: u64, bands: Vec<Band>) -> Result<Self, LayoutError> {
        if !stripe_bytes.is_power_of_two() || stripe_bytes < crate::PAGE_BYTES {
            return Err(LayoutError::StripeSize);
        }
        let mut next_stripe = 0u64;
        let mut extents: Vec<u32> = Vec::new();
        for band in &bands {
            if band.stripes == 0 || band.extents.is_empty() {
                return Err(LayoutError::EmptyBand);
            }
            if band.first_stripe != next_stripe {
                return Err(LayoutError::Gap);
            }
            next_stripe = next_stripe
                .checked_add(band.stripes)
                .filter(|stripes| stripes.checked_mul(stripe_bytes).is_some())
                .ok_or(LayoutError::Gap)?;
            extents.extend(&band.extents);
        }
        let count = extents.len();
        extents.sort_unstable();
        extents.dedup();
        if extents.len() != count {
            return Err(LayoutError::RepeatedExtent);
        }
        Ok(Self { stripe_bytes, bands })
    }

    /// Bytes that the layout has room for.
    pub fn bytes(&self) -> u64 {
        self.bands.last().map_or(0, |band| (band.first_stripe + band.stripes) * self.stripe_bytes)
    }

    /// The bands, ascending.
    pub fn bands(&self) -> &[Band] {
        &self.bands
    }

    /// Where the region's byte `offset` lives; `None` past the end.
    pub fn place(&self, offset: u64) -> Option<Place> {
        let stripe = offset / self.stripe_bytes;
        let rest = offset % self.stripe_bytes;
        let after = self.bands.partition_point(|band| band.first_stripe <= stripe);
        let band = self.bands[..after].last().filter(|band| stripe - band.first_stripe < band.stripes)?;
        let turn = stripe - band.first_stripe;
        let count = band.extents.len() as u64;
        // With one extent the band's stripes follow each other there as they do in the region.
        let stretch_stripes = if count == 1 { band.stripes - turn } else { 1 };
        Some(Place {
            extent: band.extents[(turn % count) as usize],
            offset: turn / count * self.stripe_bytes + rest,
            contiguous: stretch_stripes * self.stripe_bytes - rest,
        })
    }

    /// How long the extent `index` is, in bytes; `None` for one that is not in the layout.
    pub fn extent_bytes(&self, index: u32) -> Option<u64> {
        self.bands.iter().find_map(|band| {
            let position = band.extents.iter().position(|&extent| extent == index)? as u64;
            let count = band.extents.len() as u64;
            Some(band.stripes.saturating_sub(position).div_ceil(count) * self.stripe_bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STRIPE: u64 = 8192;

    fn layouts() -> impl Strategy<Value = Layout> {
        prop::collection::vec((1u64..9, 1usize..5), 1..4).prop_map(|shapes| {
            let (mut first_stripe, mut next_extent) = (0, 0);
            let mut bands = Vec::new();
            for (stripes, count) in shapes {
                let extents = (next_extent..next_extent + count as u32).collect();
                bands.push(Band { first_stripe, stripes, extents });
                first_stripe += stripes;
                next_extent += count as u32;
            }
            Layout::new(STRIPE, bands).expect("well formed")
        })
    }

    /// The naive walk: deals the stripes out one by one and remembers where each came to lie.
    fn dealt(layout: &Layout) -> Vec<(u32, u64)> {
        let mut stripes = Vec::new();
        for band in layout.bands() {
            let mut lengths = vec![0u64; band.extents.len()];
            for stripe in 0..band.stripes {
                let turn = (stripe % band.extents.len() as u64) as usize;
                stripes.push((band.extents[turn], lengths[turn]));
                lengths[turn] += STRIPE;
            }
        }
        stripes
    }

    proptest! {
        #[test]
        fn a_byte_lives_where_dealing_out_the_stripes_puts_it(layout in layouts(), step in 1u64..5000) {
            let dealt = dealt(&layout);
            prop_assert_eq!(layout.bytes(), dealt.len() as u64 * STRIPE);
            let mut offset = 0;
            while offset < layout.bytes() {
                let (extent, start) = dealt[(offset / STRIPE) as usize];
                let place = layout.place(offset).expect("inside");
                prop_assert_eq!((place.extent, place.offset), (extent, start + offset % STRIPE));
                offset += step;
            }
            prop_assert_eq!(layout.place(layout.bytes()), None);
        }

        #[test]
        fn a_contiguous_stretch_is_one_in_the_extent_too(layout in layouts(), at in 0u64..1 << 20) {
            let offset = at % layout.bytes();
            let place = layout.place(offset).expect("inside");
            prop_assert!(place.contiguous > 0);
            let last = layout.place(offset + place.contiguous - 1).expect("inside");
            prop_assert_eq!((last.extent, last.offset), (place.extent, place.offset + place.contiguous - 1));
        }

        #[test]
        fn an_extent_is_as_long_as_the_stripes_it_was_dealt(layout in layouts()) {
            let dealt = dealt(&layout);
            for band in layout.bands() {
                for &extent in &band.extents {
                    let stripes = dealt.iter().filter(|(each, _)| *each == extent).count() as u64;
                    prop_assert_eq!(layout.extent_bytes(extent), Some(stripes * STRIPE));
                }
            }
        }
    }

    #[test]
    fn a_malformed_layout_is_refused_with_what_is_wrong() {
        let band = |first_stripe, stripes, extents: &[u32]| Band { first_stripe, stripes, extents: extents.to_vec() };
        let table = [
            (STRIPE + 1, vec![band(0, 1, &[0])], LayoutError::StripeSize),
            (2048, vec![band(0, 1, &[0])], LayoutError::StripeSize),
            (STRIPE, vec![band(0, 0, &[0])], LayoutError::EmptyBand),
            (STRIPE, vec![band(0, 1, &[])], LayoutError::EmptyBand),
            (STRIPE, vec![band(1, 1, &[0])], LayoutError::Gap),
            (STRIPE, vec![band(0, u64::MAX, &[0])], LayoutError::Gap),
            (STRIPE, vec![band(0, 2, &[0, 0])], LayoutError::RepeatedExtent),
            (STRIPE, vec![band(0, 2, &[0]), band(2, 2, &[1, 0])], LayoutError::RepeatedExtent),
        ];
        for (stripe_bytes, bands, error) in table {
            assert_eq!(Layout::new(stripe_bytes, bands), Err(error));
        }
    }
}
