// SPDX-License-Identifier: GPL-2.0

//! BLAKE2b-256 without a key (RFC 7693).
//!
//! Of our own, since a store must be readable under every kernel: some have it in the crypto API only,
//! some in a library module only, without which a driver linked with it can't be loaded by `insmod`.
//! Pure; any context.
//!
//! A quarter of the instructions are rotations, and how to rotate is a parameter: one that leaves the
//! flags alone is far cheaper where flags are dear, as under emulation.

/// The square roots of the first eight primes, as SHA-512 has them.
const IV: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// Bytes that are compressed at once.
const BLOCK: usize = 128;

/// How words are rotated.
pub(crate) trait Rotate: Copy {
    /// `word`, rotated to the right by `BITS`, 1 to 63.
    fn right<const BITS: u32>(self, word: u64) -> u64;
}

/// As any processor does.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Rotate for Plain {
    #[inline(always)]
    fn right<const BITS: u32>(self, word: u64) -> u64 {
        word.rotate_right(BITS)
    }
}

/// A word of the block.
macro_rules! word {
    ($block:ident, $at:literal) => {
        u64::from_le_bytes([
            $block[8 * $at],
            $block[8 * $at + 1],
            $block[8 * $at + 2],
            $block[8 * $at + 3],
            $block[8 * $at + 4],
            $block[8 * $at + 5],
            $block[8 * $at + 6],
            $block[8 * $at + 7],
        ])
    };
}

macro_rules! mix {
    ($r:ident, $v:ident, $a:literal, $b:literal, $c:literal, $d:literal, $x:expr, $y:expr) => {
        $v[$a] = $v[$a].wrapping_add($v[$b]).wrapping_add($x);
        $v[$d] = $r.right::<32>($v[$d] ^ $v[$a]);
        $v[$c] = $v[$c].wrapping_add($v[$d]);
        $v[$b] = $r.right::<24>($v[$b] ^ $v[$c]);
        $v[$a] = $v[$a].wrapping_add($v[$b]).wrapping_add($y);
        $v[$d] = $r.right::<16>($v[$d] ^ $v[$a]);
        $v[$c] = $v[$c].wrapping_add($v[$d]);
        $v[$b] = $r.right::<63>($v[$b] ^ $v[$c]);
    };
}

/// A round, with the order in which it takes the words of the block.
macro_rules! round {
    (
        $r:ident, $v:ident, $m:ident, $a:literal, $b:literal, $c:literal, $d:literal, $e:literal,
        $f:literal, $g:literal, $h:literal, $i:literal, $j:literal, $k:literal, $l:literal,
        $n:literal, $o:literal, $p:literal, $q:literal
    ) => {
        mix!($r, $v, 0, 4, 8, 12, word!($m, $a), word!($m, $b));
        mix!($r, $v, 1, 5, 9, 13, word!($m, $c), word!($m, $d));
        mix!($r, $v, 2, 6, 10, 14, word!($m, $e), word!($m, $f));
        mix!($r, $v, 3, 7, 11, 15, word!($m, $g), word!($m, $h));
        mix!($r, $v, 0, 5, 10, 15, word!($m, $i), word!($m, $j));
        mix!($r, $v, 1, 6, 11, 12, word!($m, $k), word!($m, $l));
        mix!($r, $v, 2, 7, 8, 13, word!($m, $n), word!($m, $o));
        mix!($r, $v, 3, 4, 9, 14, word!($m, $p), word!($m, $q));
    };
}

/// Takes a block into the state; `end` is the number of the message's bytes so far. The block's words
/// are read where they lie, and not copied before.
fn compress<R: Rotate>(r: R, state: &mut [u64; 8], block: &[u8; BLOCK], end: u64, is_last: bool) {
    let [a, b, c, d, e, f, g, h] = *state;
    let [i, j, k, l, m, n, o, p] = IV;
    // The upper half of the count is that of messages beyond 16 EiB.
    let last = if is_last { !o } else { o };
    let mut v = [a, b, c, d, e, f, g, h, i, j, k, l, m ^ end, n, last, p];

    round!(r, v, block, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    round!(r, v, block, 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    round!(r, v, block, 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
    round!(r, v, block, 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
    round!(r, v, block, 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
    round!(r, v, block, 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
    round!(r, v, block, 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
    round!(r, v, block, 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
    round!(r, v, block, 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
    round!(r, v, block, 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
    round!(r, v, block, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    round!(r, v, block, 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    let (low, high) = v.split_at(8);
    for (word, (a, b)) in state.iter_mut().zip(low.iter().zip(high)) {
        *word ^= a ^ b;
    }
}

/// The digest of `data`.
pub(crate) fn digest<R: Rotate>(rotate: R, data: &[u8]) -> [u8; 32] {
    let mut state = IV;
    // No key, 32 bytes.
    state[0] ^= 0x0101_0020;
    let mut end = 0;
    let mut rest = data;
    while let Some((block, more)) = rest
        .split_first_chunk()
        .filter(|(_, more)| !more.is_empty())
    {
        end += BLOCK as u64;
        compress(rotate, &mut state, block, end, false);
        rest = more;
    }
    let mut last = [0; BLOCK];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    compress(rotate, &mut state, &last, end + rest.len() as u64, true);
    let mut digest = [0; 32];
    for (to, word) in digest.chunks_mut(8).zip(state) {
        for (to, from) in to.iter_mut().zip(word.to_le_bytes()) {
            *to = from;
        }
    }
    digest
}
