// SPDX-License-Identifier: GPL-2.0

//! What a store that was fenced states: proof for the other members that it does not go on by itself.

use super::token;
use crate::{
    error::{Error, Exit, Result},
    family::format_uuid,
};
use ddup_engine::engine::replication::{
    codec::Reader,
    types::{Id, Position},
};
use std::str::FromStr;

const WORD: &str = "ddup-fenced";
const VERSION: u8 = 1;

/// The answer to FENCE, with what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The set.
    pub set: Id,
    /// Who was fenced.
    pub store: Id,
    /// Lower terms are refused there.
    pub term: u64,
    /// The configuration that it has.
    pub config: Id,
    /// The end of its history.
    pub position: Position,
}

impl Statement {
    /// As a line of text.
    pub fn write(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.set);
        bytes.extend_from_slice(&self.store);
        bytes.extend_from_slice(&self.term.to_le_bytes());
        bytes.extend_from_slice(&self.config);
        bytes.extend_from_slice(&self.position.term.to_le_bytes());
        bytes.extend_from_slice(&self.position.reign);
        bytes.extend_from_slice(&self.position.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.position.chain.to_le_bytes());
        token::write(WORD, &bytes)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.uint::<1>()? == u64::from(VERSION)).then_some(())?;
        let read = Self {
            set: reader.array()?,
            store: reader.array()?,
            term: reader.uint::<8>()?,
            config: reader.array()?,
            position: reader.position()?,
        };
        reader.end()?;
        Some(read)
    }
}

impl FromStr for Statement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = token::read(WORD, text)?;
        Self::parse(&bytes).ok_or_else(|| "it is of another version of ddup".to_owned())
    }
}

/// The statement about a store, if there is one among them.
pub fn find<'a>(statements: &'a [Statement], store: &Id) -> Option<&'a Statement> {
    statements
        .iter()
        .find(|statement| statement.store == *store)
}

/// Each is of this set, and about one of these stores.
pub fn check(statements: &[Statement], set: &Id, stores: &[Id]) -> Result {
    for statement in statements {
        let wrong = |words: &str| {
            let store = format_uuid(&statement.store);
            Err(Error::new(
                Exit::Usage,
                format!("the statement of store {store} {words}"),
            ))
        };
        if statement.set != *set {
            return wrong("is of another replica set");
        }
        if !stores.contains(&statement.store) {
            return wrong("is of no use here: it is no other member in sync");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_read_as_it_was_written() {
        let ours = Statement {
            set: [1; 16],
            store: [2; 16],
            term: 7,
            config: [3; 16],
            position: Position {
                term: 6,
                reign: [4; 16],
                epoch: 99,
                chain: u64::MAX,
            },
        };
        let text = ours.write();
        assert_eq!(text.parse(), Ok(ours));
        assert!(text[..text.len() - 1].parse::<Statement>().is_err());
        assert!("ddup-invitation:00".parse::<Statement>().is_err());
        assert!(check(&[ours], &[1; 16], &[[2; 16]]).is_ok());
        for (set, store) in [([9; 16], [2; 16]), ([1; 16], [9; 16])] {
            assert_eq!(
                check(&[ours], &set, &[store]).unwrap_err().exit,
                Exit::Usage
            );
        }
        assert_eq!(find(&[ours], &[2; 16]), Some(&ours));
        assert_eq!(find(&[ours], &[1; 16]), None);
    }
}
