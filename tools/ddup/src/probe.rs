// SPDX-License-Identifier: GPL-2.0

//! What lies on a device already, told by the signatures of well-known formats.
//!
//! `format` refuses to overwrite any of these unless forced. The list need not be complete: it
//! guards against a mistyped path, and an unknown format is no worse off than with other tools.

use std::io;

/// Something to read from at any offset; reads beyond the end give less.
pub trait ReadAt {
    /// Reads at `offset` up to the buffer's length; returns how much there was.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            match std::os::unix::fs::FileExt::read_at(self, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// A format with a constant at a fixed offset.
struct Signature {
    name: &'static str,
    offset: u64,
    magic: &'static [u8],
}

const fn signature(name: &'static str, offset: u64, magic: &'static [u8]) -> Signature {
    Signature {
        name,
        offset,
        magic,
    }
}

const SIGNATURES: [Signature; 38] = [
    signature("a ddup store", 0, b"ddup\x8b\xf7st"),
    signature("an ext2, ext3 or ext4 file system", 1080, b"\x53\xef"),
    signature("an XFS file system", 0, b"XFSB"),
    signature("a btrfs file system", 0x10040, b"_BHRfS_M"),
    signature("a bcachefs or bcache device", 4120, BCACHE),
    signature("a bcachefs device", 4120, BCACHEFS),
    signature("an F2FS file system", 1024, b"\x10\x20\xf5\xf2"),
    signature("an EROFS file system", 1024, b"\xe2\xe1\xf5\xe0"),
    signature("a SquashFS file system", 0, b"hsqs"),
    signature("a cramfs file system", 0, b"\x45\x3d\xcd\x28"),
    signature("an ISO 9660 file system", 32769, b"CD001"),
    signature("a UDF file system", 32769, b"BEA01"),
    signature("an NTFS file system", 3, b"NTFS    "),
    signature("an exFAT file system", 3, b"EXFAT   "),
    signature("a FAT file system", 54, b"FAT12   "),
    signature("a FAT file system", 54, b"FAT16   "),
    signature("a FAT file system", 82, b"FAT32   "),
    signature("a BitLocker volume", 3, b"-FVE-FS-"),
    signature("an HFS+ file system", 1024, b"H+\x00\x04"),
    signature("an APFS container", 32, b"NXSB"),
    signature("a JFS file system", 32768, b"JFS1"),
    signature("a NILFS2 file system", 1030, b"\x34\x34"),
    signature("an OCFS2 file system", 4096, b"OCFSV2"),
    signature("a GFS2 file system", 65536, b"\x01\x16\x19\x70"),
    signature("a ReiserFS file system", 65588, b"ReIsEr"),
    signature("swap space", 4086, b"SWAPSPACE2"),
    signature("swap space", 4086, b"SWAP-SPACE"),
    signature("a hibernation image", 4086, b"S1SUSPEND"),
    signature("a LUKS volume", 0, b"LUKS\xba\xbe"),
    signature("a Linux RAID member", 0, RAID),
    signature("a Linux RAID member", 4096, RAID),
    signature("a VDO volume", 0, b"dmvdo001"),
    signature("a dm-integrity device", 0, b"integrt\x00"),
    signature("a dm-cache or thin pool", 32, b"\x9d\xdf\x7a\x01"),
    signature("a thin pool", 32, b"\xb2\xd5\x74\x01"),
    signature("a Ceph OSD", 0, b"bluestore block device"),
    signature("a qcow2 image", 0, b"QFI\xfb"),
    signature("a VMDK image", 0, b"KDMV"),
];

const BCACHE: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
const BCACHEFS: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
const RAID: &[u8] = b"\xfc\x4e\x2b\xa9";
const SECTOR: u64 = 512;

/// Names what `device`, of `size` bytes, holds, if any signature is known.
///
/// # Errors
///
/// Those of reading.
pub fn probe(device: &impl ReadAt, size: u64) -> io::Result<Option<&'static str>> {
    for signature in &SIGNATURES {
        if matches(device, signature.offset, signature.magic)? {
            return Ok(Some(signature.name));
        }
    }
    if is_lvm(device)? {
        return Ok(Some("an LVM physical volume"));
    }
    // Its first copy lies behind the first logical block, of either size; its second at the end.
    for offset in [
        SECTOR,
        4096,
        size.saturating_sub(SECTOR),
        size.saturating_sub(4096),
    ] {
        if offset >= SECTOR && matches(device, offset, b"EFI PART")? {
            return Ok(Some("a GPT partition table"));
        }
    }
    // Version 1.0 and 0.90 of the RAID superblock lie near the end.
    for offset in [
        (size.saturating_sub(8192)) & !4095,
        (size & !65535).saturating_sub(65536),
    ] {
        if offset > 0 && matches(device, offset, RAID)? {
            return Ok(Some("a Linux RAID member"));
        }
    }
    if is_zfs(device)? {
        return Ok(Some("a ZFS pool member"));
    }
    if is_mbr(device)? {
        return Ok(Some("an MBR partition table"));
    }
    Ok(None)
}

fn matches(device: &impl ReadAt, offset: u64, magic: &[u8]) -> io::Result<bool> {
    let mut buffer = [0; 32];
    let buffer = &mut buffer[..magic.len()];
    Ok(device.read_at(buffer, offset)? == magic.len() && buffer == magic)
}

/// The label may lie in any of the first four sectors.
fn is_lvm(device: &impl ReadAt) -> io::Result<bool> {
    for sector in 0..4 {
        if matches(device, sector * SECTOR, b"LABELONE")?
            && matches(device, sector * SECTOR + 24, b"LVM2 001")?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One of the uberblocks of the first label, in either byte order.
fn is_zfs(device: &impl ReadAt) -> io::Result<bool> {
    const MAGIC: u64 = 0x00ba_b10c;
    for slot in 0..128 {
        let offset = 128 * 1024 + slot * 1024;
        if matches(device, offset, &MAGIC.to_le_bytes())?
            || matches(device, offset, &MAGIC.to_be_bytes())?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A boot sector's mark and four entries that are empty or make sense, of which one is used.
fn is_mbr(device: &impl ReadAt) -> io::Result<bool> {
    let mut sector = [0; SECTOR as usize];
    if device.read_at(&mut sector, 0)? < sector.len() || sector[510..] != [0x55, 0xaa] {
        return Ok(false);
    }
    let mut used = 0;
    for entry in sector[446..510].chunks_exact(16) {
        if entry.iter().all(|byte| *byte == 0) {
            continue;
        }
        let is_plausible = matches!(entry[0], 0 | 0x80) && entry[4] != 0;
        if !is_plausible {
            return Ok(false);
        }
        used += 1;
    }
    Ok(used > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Image(Vec<u8>);

    impl ReadAt for Image {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let from = usize::try_from(offset).unwrap().min(self.0.len());
            let count = buffer.len().min(self.0.len() - from);
            buffer[..count].copy_from_slice(&self.0[from..from + count]);
            Ok(count)
        }
    }

    fn image(parts: &[(usize, &[u8])]) -> Image {
        let mut bytes = vec![0; 1 << 20];
        for (offset, part) in parts {
            bytes[*offset..offset + part.len()].copy_from_slice(part);
        }
        Image(bytes)
    }

    fn probed(parts: &[(usize, &[u8])]) -> Option<&'static str> {
        probe(&image(parts), 1 << 20).unwrap()
    }

    #[test]
    fn every_signature_is_found_and_an_empty_device_is_empty() {
        assert_eq!(probed(&[]), None);
        for signature in &SIGNATURES {
            let found = probed(&[(signature.offset as usize, signature.magic)]);
            assert!(found.is_some(), "{}", signature.name);
        }
    }

    #[test]
    fn tables_and_labels_are_found_where_they_may_lie() {
        for offset in [512, 4096, (1 << 20) - 512, (1 << 20) - 4096] {
            assert_eq!(
                probed(&[(offset, b"EFI PART")]),
                Some("a GPT partition table")
            );
        }
        for sector in 0..4 {
            let at = sector * 512;
            assert_eq!(
                probed(&[(at, b"LABELONE"), (at + 24, b"LVM2 001")]),
                Some("an LVM physical volume")
            );
        }
        assert_eq!(probed(&[(512, b"LABELONE")]), None);
        for offset in [(1 << 20) - 8192, (1 << 20) - 65536] {
            assert_eq!(probed(&[(offset, RAID)]), Some("a Linux RAID member"));
        }
        let magic = 0x00ba_b10c_u64.to_be_bytes();
        assert_eq!(
            probed(&[(131_072 + 5 * 1024, &magic)]),
            Some("a ZFS pool member")
        );
    }

    #[test]
    fn a_boot_mark_alone_is_no_partition_table() {
        let mark: (usize, &[u8]) = (510, b"\x55\xaa");
        assert_eq!(probed(&[mark]), None);
        let entry = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
        assert_eq!(
            probed(&[mark, (446, &entry)]),
            Some("an MBR partition table")
        );
        assert_eq!(
            probed(&[mark, (494, &entry)]),
            Some("an MBR partition table")
        );
        assert_eq!(probed(&[(446, &entry)]), None);
        let nonsense = [0x41; 16];
        assert_eq!(probed(&[mark, (446, &entry), (462, &nonsense)]), None);
    }

    #[test]
    fn short_devices_are_read_without_error() {
        for len in [0, 1, 511, 512, 4096, 70_000] {
            assert_eq!(probe(&Image(vec![0; len]), len as u64).unwrap(), None);
        }
    }
}
