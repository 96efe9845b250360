// SPDX-License-Identifier: GPL-2.0

//! Makes a failing script short: leaves out steps as long as it still fails.

use crate::script::{Op, Script, Step};
use std::time::{Duration, Instant};

/// Shortens `script`, which fails, by delta debugging; `fails` runs one. Stops after `limit`.
pub fn minimise(script: &Script, limit: Duration, fails: &dyn Fn(&Script) -> bool) -> Script {
    let end = Instant::now() + limit;
    let mut best = script.clone();
    let mut chunk = best.steps.len().div_ceil(2).max(1);
    while Instant::now() < end {
        let mut shorter = false;
        let mut at = 0;
        while at < best.steps.len() && Instant::now() < end {
            let mut steps = best.steps.clone();
            steps.drain(at..(at + chunk).min(steps.len()));
            if attempt(&mut best, steps, fails) {
                shorter = true;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 && !shorter {
            break;
        }
        chunk = if shorter && chunk == 1 {
            1
        } else {
            (chunk / 2).max(1)
        };
    }
    // Then each step by itself: fewer blocks, no gap.
    for i in 0..best.steps.len() {
        while Instant::now() < end {
            let Some(simpler) = simpler(&best.steps[i]) else {
                break;
            };
            let mut steps = best.steps.clone();
            steps[i] = simpler;
            if !attempt(&mut best, steps, fails) {
                break;
            }
        }
    }
    best
}

fn attempt(best: &mut Script, steps: Vec<Step>, fails: &dyn Fn(&Script) -> bool) -> bool {
    let candidate = Script {
        setup: best.setup.clone(),
        steps,
    };
    let ok = fails(&candidate);
    if ok {
        *best = candidate;
    }
    ok
}

fn simpler(step: &Step) -> Option<Step> {
    let mut s = step.clone();
    match &mut s.op {
        Op::Write { contents, .. } if contents.len() > 1 => contents.truncate(contents.len() / 2),
        Op::Read { count, .. } | Op::Discard { count, .. } | Op::WriteZeroes { count, .. }
            if *count > 1 =>
        {
            *count /= 2;
        }
        Op::PowerCut { again, .. } if !again.is_empty() => {
            again.pop();
        }
        _ if s.gap > 0 => s.gap /= 2,
        _ => return None,
    }
    Some(s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::generate;

    #[test]
    fn what_is_not_needed_goes() {
        let script = generate(3, 600);
        let is_flush = |s: &Step| s.op == Op::Flush;
        let flushes = script.steps.iter().filter(|s| is_flush(s)).count();
        let needed = flushes.min(3);
        let short = minimise(&script, Duration::from_secs(600), &|s| {
            s.steps.iter().filter(|s| is_flush(s)).count() >= needed
        });
        assert_eq!(short.steps.len(), needed);
    }
}
