// SPDX-License-Identifier: GPL-2.0

//! The driver's BLAKE2b-256 is that of others: digests from Python's hashlib.

#[path = "../../../drivers/block/ddup/blake2b.rs"]
mod blake2b;

#[test]
fn digests_are_those_of_another_implementation() {
    for (len, expected) in [
        (
            0,
            "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8",
        ),
        (
            1,
            "ee155ace9c40292074cb6aff8c9ccdd273c81648ff1149ef36bcea6ebb8a3e25",
        ),
        (
            127,
            "f609ab2904b340cd075920018e0e3c6f6a90a3dae3edf03d3cccc0634a81ffe3",
        ),
        (
            128,
            "0702c64922fb7635a1b799668a7e89ba9c5fe55ed7bd2fdecb001544073afad9",
        ),
        (
            129,
            "490091b32bad7b3380c9e593d341bce9b73ff9d4ebcf0091ff932bdff7279897",
        ),
        (
            255,
            "b579b3e762db9a4a9def50ea22419ca669a4875f015a167f52baa86547df7554",
        ),
        (
            256,
            "3d0cb2693dfbac42af5a6cc960953fea8714aa39c4bcd054ef61d6b5e98ade4a",
        ),
        (
            257,
            "080f7f2ee61cc8ffcf2ad907f7a9824a8445c5e4b194a0106c65f9b9c1ea6787",
        ),
        (
            4095,
            "5d3184e6db712d1677117ee81b28b0ee7da760fca3866e54c8d0c6f5e2812675",
        ),
        (
            4096,
            "bec24b5a5157c7daa9a7c3ee0c808223bf239840bd071bcf0f68436137217a2a",
        ),
        (
            8192,
            "f6bbad2bf381ee231cc10dbd8c01eceb5cafceb96303f51b5286bfce00bca66b",
        ),
    ] {
        let data: Vec<u8> = (0..len).map(|i: usize| (i * 7 + len) as u8).collect();
        let expected: Vec<u8> = (0..32)
            .map(|at| u8::from_str_radix(&expected[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let digest = blake2b::digest(blake2b::Plain, &data);
        assert_eq!(digest, expected[..], "{len} bytes");
    }
}
