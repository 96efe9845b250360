// SPDX-License-Identifier: GPL-2.0

//! BLAKE2b-256 without a key (RFC 7693).
//!
//! Of our own, since a store must be readable under every kernel: some have it in the crypto API only,
//! some in a library module only, without which a driver linked with it can't be loaded by `insmod`.
//! Pure; any context.

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

macro_rules! mix {
    ($v:ident, $a:literal, $b:literal, $c:literal, $d:literal, $x:expr, $y:expr) => {
        $v[$a] = $v[$a].wrapping_add($v[$b]).wrapping_add($x);
        $v[$d] = ($v[$d] ^ $v[$a]).rotate_right(32);
        $v[$c] = $v[$c].wrapping_add($v[$d]);
        $v[$b] = ($v[$b] ^ $v[$c]).rotate_right(24);
        $v[$a] = $v[$a].wrapping_add($v[$b]).wrapping_add($y);
        $v[$d] = ($v[$d] ^ $v[$a]).rotate_right(16);
        $v[$c] = $v[$c].wrapping_add($v[$d]);
        $v[$b] = ($v[$b] ^ $v[$c]).rotate_right(63);
    };
}

/// A round, with the order in which it takes the words of the message.
macro_rules! round {
    (
        $v:ident, $m:ident, $a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal,
        $g:literal, $h:literal, $i:literal, $j:literal, $k:literal, $l:literal, $n:literal,
        $o:literal, $p:literal, $q:literal
    ) => {
        mix!($v, 0, 4, 8, 12, $m[$a], $m[$b]);
        mix!($v, 1, 5, 9, 13, $m[$c], $m[$d]);
        mix!($v, 2, 6, 10, 14, $m[$e], $m[$f]);
        mix!($v, 3, 7, 11, 15, $m[$g], $m[$h]);
        mix!($v, 0, 5, 10, 15, $m[$i], $m[$j]);
        mix!($v, 1, 6, 11, 12, $m[$k], $m[$l]);
        mix!($v, 2, 7, 8, 13, $m[$n], $m[$o]);
        mix!($v, 3, 4, 9, 14, $m[$p], $m[$q]);
    };
}

/// Takes up to 128 bytes into the state; `end` is the number of bytes so far.
fn compress(state: &mut [u64; 8], bytes: &[u8], end: u64, is_last: bool) {
    let mut m = [0u64; 16];
    for (word, bytes) in m.iter_mut().zip(bytes.chunks(8)) {
        let mut raw = [0; 8];
        for (to, from) in raw.iter_mut().zip(bytes) {
            *to = *from;
        }
        *word = u64::from_le_bytes(raw);
    }
    let mut v = [0u64; 16];
    for (word, from) in v.iter_mut().zip(state.iter().chain(&IV)) {
        *word = *from;
    }
    // The upper half of the count is that of messages beyond 16 EiB.
    v[12] ^= end;
    if is_last {
        v[14] = !v[14];
    }
    round!(v, m, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    round!(v, m, 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    round!(v, m, 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
    round!(v, m, 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
    round!(v, m, 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
    round!(v, m, 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
    round!(v, m, 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
    round!(v, m, 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
    round!(v, m, 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
    round!(v, m, 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
    round!(v, m, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    round!(v, m, 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    let (low, high) = v.split_at(8);
    for (word, (a, b)) in state.iter_mut().zip(low.iter().zip(high)) {
        *word ^= a ^ b;
    }
}

/// The digest of `data`.
pub(crate) fn digest(data: &[u8]) -> [u8; 32] {
    let mut state = IV;
    // No key, 32 bytes.
    state[0] ^= 0x0101_0020;
    let mut end = 0;
    let mut rest = data;
    while rest.len() > BLOCK {
        let (block, more) = rest.split_at(BLOCK);
        end += BLOCK as u64;
        compress(&mut state, block, end, false);
        rest = more;
    }
    compress(&mut state, rest, end + rest.len() as u64, true);
    let mut digest = [0; 32];
    for (to, word) in digest.chunks_mut(8).zip(state) {
        for (to, from) in to.iter_mut().zip(word.to_le_bytes()) {
            *to = from;
        }
    }
    digest
}
