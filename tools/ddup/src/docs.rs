// SPDX-License-Identifier: GPL-2.0

//! Man pages and shell completions, made from [`cli`](crate::cli).

use crate::{cli, daemon, error::Exit};
use clap::{Command, CommandFactory};
use clap_complete::{generate_to, Shell};
use clap_mangen::{roff::Roff, Man};
use std::{fs, io, path::Path};

/// Section of the manual: tools of the administrator.
const SECTION: &str = "8";

/// Writes all of it below `folder`.
pub fn write(folder: &Path) -> io::Result<()> {
    let pages = folder.join("man");
    fs::create_dir_all(&pages)?;
    for (name, text) in man_pages()? {
        fs::write(pages.join(name), text)?;
    }
    let completions = folder.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        for (name, mut command) in programs() {
            generate_to(shell, &mut command, name, &completions)?;
        }
    }
    Ok(())
}

fn programs() -> [(&'static str, Command); 2] {
    [("ddup", cli::command()), ("ddupd", daemon::Args::command())]
}

/// The pages: one for each program, one for each verb, and one for each verb below that. File name
/// and text.
pub fn man_pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = cli::command();
    command.build();
    let mut pages = vec![
        page("ddup", &command)?,
        page("ddupd", &daemon::Args::command())?,
    ];
    for (name, verb) in verbs("ddup", &command) {
        pages.push(page(&name, verb)?);
    }
    Ok(pages)
}

/// Verbs with the names of their pages, each followed by those below it.
fn verbs<'a>(name: &str, command: &'a Command) -> Vec<(String, &'a Command)> {
    let mut all = Vec::new();
    for verb in command.get_subcommands().filter(|v| v.get_name() != "help") {
        let name = format!("{name}-{}", verb.get_name());
        let below = verbs(&name, verb);
        all.push((name, verb));
        all.extend(below);
    }
    all
}

fn page(name: &str, command: &Command) -> io::Result<(String, Vec<u8>)> {
    // The verbs' pages carry the name under which `man` finds them.
    let command = command
        .clone()
        .name(leak(name))
        .disable_help_subcommand(true);
    let man = Man::new(command)
        .section(SECTION)
        .manual("ddup")
        .source(concat!("ddup ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render(&mut text)?;
    exit_status().to_writer(&mut text)?;
    Ok((format!("{name}.{SECTION}"), text))
}

fn exit_status() -> Roff {
    use clap_mangen::roff::roman;
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    roff.control("TP", []);
    roff.text([roman("0")]);
    roff.text([roman("Success.")]);
    for (exit, words) in Exit::ALL {
        roff.control("TP", []);
        roff.text([roman((exit as u8).to_string())]);
        roff.text([roman(words)]);
    }
    roff
}

/// clap keeps names for ever; this program ends soon.
fn leak(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knob::{Knob, KNOBS};
    use std::collections::BTreeSet;

    /// The page without roff's escapes.
    fn plain(text: &[u8]) -> String {
        String::from_utf8(text.to_vec())
            .unwrap()
            .replace("\\-", "-")
            .replace("\\fB", "")
            .replace("\\fI", "")
            .replace("\\fR", "")
            .replace("\\*(Aq", "'")
    }

    #[test]
    fn pages_name_every_verb_option_and_exit_code() {
        let pages = man_pages().unwrap();
        let find = |name: &str| {
            let (_, text) = pages
                .iter()
                .find(|(page, _)| page == &format!("{name}.{SECTION}"))
                .unwrap_or_else(|| panic!("no page {name}"));
            plain(text)
        };
        let top = find("ddup");
        let command = cli::command();
        let daemon = daemon::Args::command();
        for verb in command.get_subcommands() {
            assert!(top.contains(verb.get_name()), "{}", verb.get_name());
        }
        let verbs = verbs("ddup", &command);
        assert!(verbs.iter().any(|(name, _)| name == "ddup-peer-add"));
        assert_eq!(pages.len(), 2 + verbs.len());
        for (name, verb) in verbs.into_iter().chain([("ddupd".to_owned(), &daemon)]) {
            let text = find(&name);
            let about = verb.get_about().unwrap().to_string();
            assert!(text.contains(&about), "{about}");
            for argument in verb.get_arguments() {
                if let Some(long) = argument.get_long() {
                    assert!(text.contains(&format!("--{long}")), "--{long}");
                }
                let help = argument.get_help().unwrap().to_string();
                assert!(text.contains(&help), "{help}");
            }
            for (exit, words) in Exit::ALL {
                assert!(text.contains(words), "{exit:?}");
            }
        }
    }

    #[test]
    fn help_and_completions_name_what_the_parser_takes() {
        let mut command = cli::command();
        command.build();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "ddup", &mut text);
            let text = String::from_utf8(text).unwrap();
            for (_, verb) in verbs("ddup", &command) {
                assert!(
                    text.contains(verb.get_name()),
                    "{shell}: {}",
                    verb.get_name()
                );
                for argument in verb.get_arguments().filter_map(|a| a.get_long()) {
                    assert!(text.contains(argument), "{shell}: --{argument}");
                }
            }
        }
        for (_, verb) in verbs("ddup", &command) {
            let help = verb.clone().render_long_help().to_string();
            for argument in verb.get_arguments() {
                let words = match argument.get_long() {
                    Some(long) => format!("--{long}"),
                    None => argument.get_value_names().unwrap()[0].to_string(),
                };
                let words = words.as_str();
                assert!(help.contains(words), "{} {words}", verb.get_name());
            }
        }
    }

    #[test]
    fn every_file_in_sysfs_is_documented_and_no_other() {
        let source = include_str!("../../../drivers/block/ddup/attributes.rs");
        let page = include_str!("../../../Documentation/ABI/testing/sysfs-block-ddup");
        let documented: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("What:\t\t/sys/block/ddupN/ddup/"))
            .collect();
        // `counter!(name)` and `name: c"name"`.
        let files: BTreeSet<&str> = source
            .lines()
            .map(str::trim)
            .filter_map(|line| {
                let name = line
                    .strip_prefix("counter!(")
                    .or_else(|| line.strip_prefix("name: c\""))?;
                name.split([',', ')', '"']).next()
            })
            .filter(|name| !name.is_empty())
            .chain(KNOBS.iter().map(Knob::name))
            .collect();
        assert!(files.len() > 30);
        assert_eq!(files, documented);
    }

    #[test]
    fn ranges_and_defaults_in_the_page_are_those_of_the_knobs() {
        let page = include_str!("../../../Documentation/ABI/testing/sysfs-block-ddup");
        for knob in KNOBS {
            let what = format!("/sys/block/ddupN/ddup/{}\n", knob.name());
            let text = page.split("What:\t\t").find(|text| text.starts_with(&what));
            let text = text.unwrap().split_whitespace().collect::<Vec<_>>();
            let words = format!(
                "({} to {}, default {}).",
                knob.min,
                knob.max,
                knob.default()
            );
            assert!(text.join(" ").contains(&words), "{}: {words}", knob.name());
        }
    }

    #[test]
    fn all_files_are_written() {
        let folder = std::env::temp_dir().join(format!("ddup-docs-{}", std::process::id()));
        write(&folder).unwrap();
        for file in [
            "man/ddup.8",
            "man/ddup-attach.8",
            "man/ddupd.8",
            "completions/ddup.bash",
            "completions/_ddup",
            "completions/ddup.fish",
            "completions/ddupd.bash",
            "completions/_ddupd",
            "completions/ddupd.fish",
        ] {
            assert!(folder.join(file).metadata().unwrap().len() > 0, "{file}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
