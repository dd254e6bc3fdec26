//! The one hash of Ringway and what is cut from it: slots, lanes, and points on a ring.
//!
//! It is a promise of the wire and of the disk: the same bytes give the same slot on every machine
//! and in every version, so nothing here may change. It does not know what the bytes mean.

use crate::ids::{Offset, Slot};
use crate::limits::SLOTS;

/// XXH3 with 64 bits and seed 0, over `bytes` (Y. Collet, "xxHash fast digest algorithm").
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// The slot of a key: its hash modulo 4,096.
#[must_use]
pub fn slot_of(key: &[u8]) -> Slot {
    Slot((hash(key) % u64::from(SLOTS)) as u16)
}

/// The lane of a key: the top 12 bits of its hash, so that it says nothing about the slot.
#[must_use]
pub fn lane_of(key: &[u8]) -> u16 {
    lane_of_hash(hash(key))
}

/// The lane of a message without a key: that of the eight little-endian bytes of its offset.
#[must_use]
pub fn lane_of_offset(offset: Offset) -> u16 {
    lane_of_hash(hash(&offset.0.to_le_bytes()))
}

/// The lane of the message at `offset`: that of its key, or of its offset if it has none.
#[must_use]
pub fn lane_of_message(key: Option<&[u8]>, offset: Offset) -> u16 {
    key.map_or_else(|| lane_of_offset(offset), lane_of)
}

fn lane_of_hash(hash: u64) -> u16 {
    (hash >> 52) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first two hashes are those that the reference implementation publishes for seed 0; the
    /// rest fixes what this build gave when the promise was made.
    #[test]
    fn the_hash_slot_and_lane_of_a_key_never_change() {
        let golden: [(&[u8], u64, u16, u16); 5] = [
            (b"", 0x2d06_8005_38d3_94c2, 1218, 720),
            (&[0], 0xc44b_dff4_074e_ecdb, 3291, 3140),
            (b"N14228", 0x045b_f808_ce81_96a6, 1702, 69),
            (b"orders", 0xa88c_cdc9_fa49_74fb, 1275, 2696),
            (&[0xff; 300], 0xa6eb_8a92_d637_e066, 102, 2670),
        ];
        for (key, want, slot, lane) in golden {
            assert_eq!(
                (hash(key), slot_of(key), lane_of(key)),
                (want, Slot(slot), lane),
                "{key:?}"
            );
        }
        assert_eq!([0, 1, u64::MAX].map(|n| lane_of_offset(Offset(n))), [3191, 763, 1297]);
    }
}
