// SPDX-License-Identifier: GPL-2.0

//! Random and damaged configuration files: what is right is understood, and what is wrong is told
//! with the file, the line and the key, whatever it is.
//!
//! `SEED=n` plays one round; each failure names its seed. `FUZZ_ROUNDS` says how many (20,000).

use ddup_tool::config::{parse, Wanted};
use ddup_tool::error::{Exit, Result};
use ddup_tool::knob::KNOBS;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

const FILE: &str = "/etc/ddup/fuzz.toml";

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

fn read(text: &str) -> Result<Wanted> {
    parse(Path::new(FILE), text)
}

/// A key, values that it takes, and some that it does not.
struct Key {
    name: String,
    good: Vec<(String, u64)>,
    bad: Vec<String>,
}

fn strings(of: &[&str]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

/// Values that nothing takes.
const NEVER: [&str; 12] = [
    "1.5",
    "-1",
    "[]",
    "[[[1]]]",
    "nan",
    "inf",
    "1979-05-27",
    "''",
    "'\u{1F980}'",
    "99999999999999999999999999",
    "-9223372036854775808",
    "{ a = 1 }",
];

fn keys() -> Vec<Key> {
    let key = |name: &str, good: &[(&str, u64)], bad: &[&str]| Key {
        name: name.to_owned(),
        good: good
            .iter()
            .map(|(text, n)| (text.to_string(), *n))
            .collect(),
        bad: strings(bad).into_iter().chain(strings(&NEVER)).collect(),
    };
    let sizes: &[(&str, u64)] = &[
        ("4194304", 4 << 20),
        ("'64M'", 64 << 20),
        ("\"1.5M\"", 3 << 19),
        ("'2TiB'", 2 << 40),
        ("0x1000", 4096),
    ];
    let no_sizes: &[&str] = &[
        "true",
        "'64Q'",
        "'M'",
        "'-4K'",
        "'16E'",
        "'1e3'",
        "\"64\\u0000M\"",
        "\"\\u001b[2J\"",
        "'18446744073709551616'",
    ];
    vec![
        key(
            "store",
            &[("'/dev/vdb'", 0), ("\"/srv/st\\u00f6re\"", 0)],
            &[
                "1",
                "true",
                "'vdb'",
                "'./vdb'",
                "\"/dev/\\u0000vdb\"",
                "\"\\u001b[2J\"",
            ],
        ),
        key(
            "number",
            &[("0", 0), ("65535", 65535), ("0x10", 16), ("1_000", 1000)],
            &["65536", "'0'", "true", "18446744073709551616", "01"],
        ),
        key(
            "read-only",
            &[("true", 1), ("false", 0)],
            &["1", "0", "'true'", "TRUE", "yes"],
        ),
        key("cache", sizes, no_sizes),
        key("index", sizes, no_sizes),
    ]
}

fn knobs() -> Vec<Key> {
    let knob = |knob: &ddup_tool::knob::Knob| {
        let mut good = vec![
            ("'default'".to_owned(), knob.default()),
            (format!("'{}'", knob.max), knob.max),
            (format!("{}", knob.min), knob.min),
            (format!("\"{}\"", knob.min), knob.min),
        ];
        let mut bad = strings(&[
            "'many'",
            "'+1'",
            "\"1\\n\"",
            "' 1'",
            "'0x1'",
            "'1=1'",
            "'18446744073709551616'",
        ]);
        bad.extend(strings(&NEVER));
        if knob.max == 1 {
            good.extend([("true".to_owned(), 1), ("false".to_owned(), 0)]);
            bad.push("2".to_owned());
        } else {
            bad.extend(strings(&["true", "false"]));
        }
        if knob.max < u64::MAX {
            bad.push(format!("'{}'", knob.max + 1));
        }
        if knob.min > 0 {
            bad.push(format!("{}", knob.min - 1));
        }
        Key {
            name: knob.name().to_owned(),
            good,
            bad,
        }
    };
    KNOBS.iter().map(knob).collect()
}

/// What a right file sets a key to.
fn value_of(wanted: &Wanted, key: &str) -> Option<u64> {
    match key {
        "store" => Some(0),
        "number" => wanted.number.map(u64::from),
        "read-only" => Some(wanted.read_only.into()),
        "cache" => wanted.cache,
        "index" => wanted.index,
        _ => wanted
            .knobs
            .iter()
            .find(|s| s.knob.name() == key)
            .map(|s| s.value),
    }
}

/// Anything that is said is one line that a terminal may show, and begins with file and line.
fn check_words(text: &str, error: &ddup_tool::error::Error) -> usize {
    assert_eq!(error.exit, Exit::Usage);
    let words = error.to_string();
    assert!(
        !words.chars().any(char::is_control),
        "control characters: {words:?}"
    );
    let rest = words
        .strip_prefix(FILE)
        .and_then(|rest| rest.strip_prefix(':'));
    let (line, rest) = rest
        .and_then(|rest| rest.split_once(": "))
        .unwrap_or_else(|| panic!("{words:?}"));
    let line: usize = line.parse().unwrap_or_else(|_| panic!("{words:?}"));
    assert!(
        line >= 1 && line <= text.matches('\n').count() + 1,
        "{words:?}"
    );
    assert!(!rest.trim().is_empty(), "{words:?}");
    line
}

fn shuffle<T>(rng: &mut Rng, of: &mut [T]) {
    for at in (1..of.len()).rev() {
        of.swap(at, rng.below(at + 1));
    }
}

/// Keys and their values.
type Values = Vec<(String, u64)>;

/// The line that is wrong, and its key, if that is told.
type Wrong = Option<(usize, String)>;

/// A file of random keys in a random order, and what is wrong with it: line and key.
fn make(rng: &mut Rng) -> (String, Values, Wrong) {
    let mut top: Vec<Key> = keys()
        .into_iter()
        .filter(|k| k.name == "store" || rng.below(2) == 0)
        .collect();
    let mut below: Vec<Key> = knobs().into_iter().filter(|_| rng.below(3) == 0).collect();
    shuffle(rng, &mut top);
    shuffle(rng, &mut below);
    let count = top.len() + below.len();
    // At most one thing is wrong: a value, a key that there is not, or one that is there twice.
    let wrong = (rng.below(3) > 0).then(|| rng.below(count));
    let how = rng.below(6);
    let (mut lines, mut expected, mut told) = (Vec::new(), Vec::new(), None);
    let tables = below.len();
    for (at, key) in top.into_iter().chain(below).enumerate() {
        if tables > 0 && at == count - tables {
            lines.push("[knobs]".to_owned());
        }
        if rng.below(5) == 0 {
            lines.push("# = [comment] '".to_owned());
        }
        let (text, value) = rng.pick(&key.good).clone();
        match (wrong == Some(at), how) {
            (false, _) => {
                lines.push(format!("{} = {text}", key.name));
                expected.push((key.name, value));
            }
            (true, 0) => {
                let odd = rng.pick(&[
                    "colour",
                    "\"gc_delay=5\"",
                    "\"\\u001b[2J\"",
                    "\"a\\nb\"",
                    "''",
                    "'knobs'x",
                    "ключ",
                ]);
                lines.push(format!("{odd} = {text}"));
                told = Some((lines.len(), String::new()));
            }
            (true, 1) => {
                lines.push(format!("{} = {text}", key.name));
                lines.push(format!("{} = {text}", key.name));
                told = Some((lines.len(), String::new()));
            }
            (true, _) => {
                lines.push(format!("{} = {}", key.name, rng.pick(&key.bad)));
                told = Some((lines.len(), key.name));
            }
        }
    }
    (lines.join("\n"), expected, told)
}

/// Replaces, removes and inserts pieces at random places.
fn damage(rng: &mut Rng, text: &str) -> String {
    const PIECES: [&str; 24] = [
        "=",
        "[",
        "]",
        "[[",
        "{",
        "}",
        "'",
        "\"",
        "\"\"\"",
        "'''",
        "\n",
        "\r",
        "\r\n",
        ".",
        ",",
        "-",
        "#",
        "\\",
        "\\u0000",
        "\0",
        "\u{1b}",
        "\u{1F980}",
        "9223372036854775808",
        "store",
    ];
    let mut chars: Vec<String> = text.chars().map(String::from).collect();
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(chars.len() + 1);
        match rng.below(4) {
            0 if at < chars.len() => drop(chars.remove(at)),
            1 if at < chars.len() => chars[at] = rng.pick(&PIECES).to_string(),
            2 => chars.truncate(at),
            _ => chars.insert(at, rng.pick(&PIECES).to_string()),
        }
    }
    chars.concat()
}

fn round(seed: u64) {
    let mut rng = Rng(seed);
    let (text, expected, told) = make(&mut rng);
    match (read(&text), told) {
        (Ok(wanted), None) => {
            for (key, value) in expected {
                assert_eq!(value_of(&wanted, &key), Some(value), "{key} of\n{text}");
            }
        }
        (Err(error), Some((line, key))) => {
            assert_eq!(check_words(&text, &error), line, "{error} of\n{text}");
            assert!(
                error.to_string().contains(&key),
                "{key}: {error} of\n{text}"
            );
        }
        (Ok(_), Some((line, key))) => panic!("line {line}, {key}, was taken:\n{text}"),
        (Err(error), None) => panic!("{error} of what is right:\n{text}"),
    }
    let text = damage(&mut rng, &text);
    if let Err(error) = read(&text) {
        check_words(&text, &error);
    }
}

#[test]
fn right_files_are_understood_and_wrong_ones_are_told() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    if let Some(seed) = number("SEED") {
        return round(seed);
    }
    for seed in 0..number("FUZZ_ROUNDS").unwrap_or(20_000) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round(seed))) {
            eprintln!("SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn what_is_deep_or_long_is_refused_and_ends() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let deep = format!("store = {}{}", open.repeat(100_000), close.repeat(100_000));
        check_words(&deep, &read(&deep).unwrap_err());
    }
    let tables = format!("store = '/dev/vdb'\n[{}]", vec!["a"; 50_000].join("."));
    check_words(&tables, &read(&tables).unwrap_err());
    let long = format!("store = '/dev/vdb'\nnumber = {}", "9".repeat(1_000_000));
    assert_eq!(check_words(&long, &read(&long).unwrap_err()), 2);
    let many = format!("store = '/dev/vdb'\n{}", "number = 1\n".repeat(100_000));
    assert_eq!(check_words(&many, &read(&many).unwrap_err()), 3);
}
