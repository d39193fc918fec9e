//! The types of objects, bonus buffers and blocks: the numbers of OpenZFS `include/sys/dmu.h`, `dmu_object_type_t`.

/// Nothing (`DMU_OT_NONE`): a free object; no bonus buffer.
pub const NONE: u32 = 0;
/// System attributes (`DMU_OT_SA`): the bonus buffer of all files since 2010.
pub const SA: u32 = 44;
/// `DMU_OTN_UINT64_METADATA`.
pub const UINT64_METADATA: u32 = 0xc3;

/// `DMU_OT_NUMTYPES`: types below it are numbered one by one. OpenZFS no longer adds such types.
const NUMBERED: u32 = 54;
/// `DMU_OT_NEWTYPE`: the other bits of the number say how its words are byte-swapped, and two properties.
const COMPOSED: u32 = 0x80;
/// `DMU_OT_BYTESWAP_MASK`.
const SWAP: u32 = 0x1f;
/// `DMU_BSWAP_NUMFUNCS`.
const SWAPS: u32 = 10;

/// Whether OpenZFS 2.4 knows the number. It has 32 bits in a stream and 8 on disk; if `DMU_OT_NEWTYPE` is set, the
/// kernel's own test looks only at the lower 8.
pub fn is_known(code: u32) -> bool {
    code < NUMBERED || ((COMPOSED..=0xff).contains(&code) && code & SWAP < SWAPS)
}

/// Whether a type is an array of dnodes (`DMU_OT_DNODE`) or an object set (`DMU_OT_OBJSET`), or is byte-swapped like
/// these: the kernel would follow the block pointers in it, and relies on its size. A dataset has one of each, and no
/// record writes it.
pub fn has_block_pointers(code: u32) -> bool {
    match code {
        10 | 11 => true,
        COMPOSED.. => (5..=6).contains(&(code & SWAP)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_types_are_those_of_the_format() {
        let known: Vec<u32> = (0..0x1000).filter(|code| is_known(*code)).collect();
        let composed = [0x80, 0xa0, 0xc0, 0xe0].into_iter().flat_map(|properties| properties..properties + 10);
        assert_eq!(known, (0..54).chain(composed).collect::<Vec<_>>());
        assert!(!is_known(0x8000_0080) && !is_known(u32::MAX));
    }

    #[test]
    fn types_with_block_pointers_are_dnodes_and_object_sets() {
        let all: Vec<u32> = (0..0x100).filter(|code| is_known(*code) && has_block_pointers(*code)).collect();
        assert_eq!(all, [10, 11, 0x85, 0x86, 0xa5, 0xa6, 0xc5, 0xc6, 0xe5, 0xe6]);
    }
}
