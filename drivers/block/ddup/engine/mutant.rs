// SPDX-License-Identifier: GPL-2.0

//! Seeded faults of the engine, for proving that the simulator finds them.
//!
//! `mutant!(n)` is the constant `false` unless the host crate is built with the feature `mutants`;
//! then it asks whether fault `n` was switched on. `make sim-mutants` lists what each one breaks.

#[cfg(feature = "mutants")]
static MUTANT: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

/// Switches a fault on (0: none). Has no effect without the feature `mutants`.
pub fn set_mutant(number: u32) {
    #[cfg(feature = "mutants")]
    MUTANT.store(number, core::sync::atomic::Ordering::Relaxed);
    let _ = number;
}

/// Whether a fault is switched on.
#[cfg(feature = "mutants")]
pub(super) fn is_on(number: u32) -> bool {
    MUTANT.load(core::sync::atomic::Ordering::Relaxed) == number
}

#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($number:literal) => {
        $crate::engine::mutant::is_on($number)
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($number:literal) => {
        false
    };
}

pub(super) use mutant;
