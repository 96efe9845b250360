// SPDX-License-Identifier: GPL-2.0

//! What the processor can do beyond what every one of its kind can.
//!
//! C header: `arch/x86/include/asm/cpufeature.h`.
//! Upstream replacement: none yet.

use crate::bindings;

/// The instructions BMI2 of x86.
///
/// # Invariants
///
/// The processor has them.
#[derive(Clone, Copy)]
pub struct Bmi2(());

impl Bmi2 {
    /// The proof, if this processor has them. Any context.
    pub fn get() -> Option<Bmi2> {
        // SAFETY: It only reads what was found out at boot.
        let found = unsafe { bindings::kstage_has_bmi2() };

        // INVARIANT: That is what was asked.
        found.then_some(Bmi2(()))
    }

    /// `word`, rotated to the right by `BITS`, 0 to 63, with the flags left alone.
    #[inline(always)]
    pub fn rotate_right<const BITS: u32>(self, word: u64) -> u64 {
        #[cfg(CONFIG_X86_64)]
        {
            let rotated: u64;

            // SAFETY: By the type invariant the processor has RORX, which only reads one register
            // and writes another.
            unsafe {
                core::arch::asm!(
                    "rorx {}, {}, {}",
                    lateout(reg) rotated,
                    in(reg) word,
                    const BITS,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            rotated
        }
        #[cfg(not(CONFIG_X86_64))]
        word.rotate_right(BITS)
    }
}
