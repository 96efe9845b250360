// SPDX-License-Identifier: GPL-2.0

//! `ddup fence`.

use crate::{
    cli::FenceArgs,
    error::{Error, Exit, Result},
    family::{format_uuid, set::Place},
    replica::statement::Statement,
    verb::{member::Member, print_json},
};
use serde::Serialize;

#[derive(Serialize)]
struct Printed {
    store_uuid: String,
    set_uuid: String,
    term: u64,
    config_id: String,
    position: Place,
    statement: String,
}

/// Fences a store.
pub fn run(args: &FenceArgs) -> Result {
    let doing = format!("cannot fence {}", args.device.display());
    let statement = fence(args).map_err(|error| error.context(doing))?;
    if args.json {
        return print_json(&Printed {
            store_uuid: format_uuid(&statement.store),
            set_uuid: format_uuid(&statement.set),
            term: statement.term,
            config_id: format_uuid(&statement.config),
            position: Place::from(&statement.position),
            statement: statement.write(),
        });
    }
    println!("{}", statement.write());
    Ok(())
}

fn fence(args: &FenceArgs) -> Result<Statement> {
    let mut member = Member::open(&args.device)?;
    if member.state.rules() && !args.force {
        return Err(Error::new(
            Exit::Busy,
            "it is primary, and what uses it would get I/O errors: `ddup demote` it first, or --force",
        ));
    }
    let promise = member.state.promise.unwrap_or(0);
    let term = args.term.unwrap_or(promise + 1);
    if term <= promise {
        return Err(Error::new(
            Exit::Usage,
            format!(
                "it refuses terms below {promise} already: give --term {} or more",
                promise + 1
            ),
        ));
    }
    let fenced = member.driver.fence(member.device.index, term)?;
    Ok(Statement {
        set: member.state.set,
        store: member.state.store,
        term,
        config: fenced.config,
        position: fenced.position,
    })
}
