// SPDX-License-Identifier: GPL-2.0
//! Faults that a test orders: requests that fail, and delays.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// Kinds of requests, as far as faults tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// READ.
    Read,
    /// WRITE and WRITE_ZEROES.
    Write,
    /// FLUSH.
    Flush,
    /// TRIM.
    Trim,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Kind::Read),
            "write" => Ok(Kind::Write),
            "flush" => Ok(Kind::Flush),
            "trim" => Ok(Kind::Trim),
            _ => Err(format!("{text:?}: not one of read, write, flush, trim")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum When {
    /// The n-th request of its kind, from 1.
    Nth(u64),
    /// The n-th and all later ones.
    From(u64),
    /// Each request that touches one of these sectors.
    Sectors(RangeInclusive<u64>),
}

/// Requests that fail with EIO and do nothing else.
///
/// Written `KIND@N` (the n-th, from 1), `KIND@N+` (from the n-th on) or `KIND:A-B` (whatever touches
/// the 512-byte sectors A to B).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: Kind,
    when: When,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            part.parse::<u64>()
                .map_err(|_| format!("{text:?}: {part:?} is no number"))
        };
        if let Some((kind, when)) = text.split_once('@') {
            let (digits, on) = match when.strip_suffix('+') {
                Some(digits) => (digits, true),
                None => (when, false),
            };
            let n = number(digits)?;
            if n == 0 {
                return Err(format!("{text:?}: requests are counted from 1"));
            }
            let when = if on { When::From(n) } else { When::Nth(n) };
            let kind = kind.parse()?;
            return Ok(Fault { kind, when });
        }
        if let Some((kind, sectors)) = text.split_once(':') {
            let kind = kind.parse()?;
            let (first, last) = sectors.split_once('-').unwrap_or((sectors, sectors));
            let (first, last) = (number(first)?, number(last)?);
            if kind == Kind::Flush || first > last {
                return Err(format!("{text:?}: no such sectors"));
            }
            let when = When::Sectors(first..=last);
            return Ok(Fault { kind, when });
        }
        Err(format!(
            "{text:?}: expected KIND@N, KIND@N+ or KIND:FIRST-LAST, as in write@100 or read:2048-4095"
        ))
    }
}

/// A delay before each request of a kind, written `KIND=MILLISECONDS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    kind: Kind,
    time: Duration,
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, time) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?}: expected KIND=MILLISECONDS, as in flush=5"))?;
        let millis: u64 = time
            .parse()
            .map_err(|_| format!("{text:?}: {time:?} is no number of milliseconds"))?;
        Ok(Delay {
            kind: kind.parse()?,
            time: Duration::from_millis(millis),
        })
    }
}

/// The faults in force, and how many requests of each kind there were.
#[derive(Debug, Default)]
pub struct Faults {
    faults: Vec<Fault>,
    delays: Vec<Delay>,
    counts: [u64; 4],
}

impl Faults {
    /// With these from the start.
    pub fn new(faults: Vec<Fault>, delays: Vec<Delay>) -> Self {
        Self {
            faults,
            delays,
            counts: [0; 4],
        }
    }

    /// One more. Its n counts from now.
    pub fn add(&mut self, mut fault: Fault) {
        let so_far = self.counts[fault.kind as usize];
        match &mut fault.when {
            When::Nth(n) | When::From(n) => *n += so_far,
            When::Sectors(_) => {}
        }
        self.faults.push(fault);
    }

    /// No faults from now on.
    pub fn clear(&mut self) {
        self.faults.clear();
    }

    /// Counts a request of `sectors` (first, number; 0, 0 for FLUSH) and says whether it fails.
    pub fn next(&mut self, kind: Kind, first: u64, count: u64) -> bool {
        self.counts[kind as usize] += 1;
        let nth = self.counts[kind as usize];
        self.faults
            .iter()
            .filter(|fault| fault.kind == kind)
            .any(|fault| match &fault.when {
                When::Nth(n) => *n == nth,
                When::From(n) => *n <= nth,
                When::Sectors(range) => {
                    count > 0 && first <= *range.end() && first + (count - 1) >= *range.start()
                }
            })
    }

    /// How long a request of this kind takes more.
    pub fn delay(&self, kind: Kind) -> Duration {
        self.delays
            .iter()
            .filter(|delay| delay.kind == kind)
            .map(|delay| delay.time)
            .sum()
    }

    /// Requests so far: reads, writes, flushes, trims.
    pub fn counts(&self) -> [u64; 4] {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_of_its_kind_fails() {
        let faults = ["write@2", "read@3+", "trim:8-15"].map(|text| text.parse().unwrap());
        let mut faults = Faults::new(faults.into(), Vec::new());
        assert_eq!(
            [0; 4].map(|_| faults.next(Kind::Write, 0, 8)),
            [false, true, false, false]
        );
        assert_eq!(
            [0; 4].map(|_| faults.next(Kind::Read, 0, 8)),
            [false, false, true, true]
        );
        assert!(!faults.next(Kind::Trim, 0, 8));
        assert!(faults.next(Kind::Trim, 0, 9));
        assert!(faults.next(Kind::Trim, 15, 1));
        assert!(!faults.next(Kind::Trim, 16, 1));
        faults.add("write@1".parse().unwrap());
        assert!(faults.next(Kind::Write, 0, 8));
        faults.clear();
        assert!(!faults.next(Kind::Read, 0, 8));
        assert_eq!(faults.counts(), [5, 5, 0, 4]);
    }

    #[test]
    fn wrong_texts_are_named() {
        for text in [
            "write",
            "wrote@1",
            "write@0",
            "write@x",
            "read:9-3",
            "flush:1-2",
        ] {
            let error = text.parse::<Fault>().unwrap_err();
            assert!(error.contains(&text[..4]), "{text}: {error}");
        }
        assert!("flush".parse::<Delay>().is_err());
        assert!("flush=fast".parse::<Delay>().is_err());
        assert_eq!(
            Faults::new(Vec::new(), vec!["flush=5".parse().unwrap()]).delay(Kind::Flush),
            Duration::from_millis(5)
        );
    }
}
