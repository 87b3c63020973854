//! What a look at both sides finds, all of it: the plan where one can be made, the rights that it needs, and each thing
//! that stands in the way.
//!
//! One mistake is one trouble: what follows from a trouble that is told already is left out.

use super::pairing::{LeftOut, Pair};
use super::server::ServerIdentity;
use super::table::Relation;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::ledger;
use crate::table::{OnConflict, Plan, Tally};
use serde::Serialize;

/// What a table is looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum Purpose {
    /// To be read and compared: what would stop or change only what is written is passed over.
    Verify,
    /// To be copied once.
    Copy,
    /// To be copied for ever, which takes temporary tables whatever the mode of writing.
    Sync,
}

impl Purpose {
    /// Whether rows are written.
    pub(super) fn writes(self) -> bool {
        self != Self::Verify
    }
}

/// All that was found before anything was started.
#[derive(Debug, Default)]
pub struct Survey {
    /// How the table would be copied; there may be troubles beside it. `None` where too little is right to say.
    pub plan: Option<Plan>,
    /// Why the plan's key is the one that is followed, in words.
    pub key_reason: String,
    /// Why rows travel as text, in words; `None` where they travel in binary.
    pub text_reason: Option<String>,
    /// What is read for the columns that are not copied as they are.
    pub readings: Vec<Read>,
    /// The source's columns that are not copied.
    pub left_out: Vec<LeftOut>,
    /// The rights that the job needs, those that are there too.
    pub rights: Vec<Right>,
    /// How the ledger is; `None` where that could not be asked.
    pub ledger: Option<ledger::State>,
    /// What the ledger's batches did.
    pub found: Tally,
    /// Whether the ledger knows the job.
    pub known: bool,
    /// What stands in the way, in the order in which it was found, the source's before the target's.
    pub troubles: Vec<Error>,
}

/// What is read for a column of the target, where it is not the source's column of that name, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Read {
    /// The target's column.
    pub column: String,
    /// What is read for it, in words.
    pub from: String,
    /// Why, where nobody asked for it.
    pub why: Option<String>,
}

/// Those of the pairs that are read in another way than by their name, as they are.
pub(super) fn readings(pairs: &[Pair<'_>]) -> Vec<Read> {
    let readings = pairs.iter().filter_map(|pair| {
        let why = pair.why_cast.map(|why| {
            format!(
                "it is {} on the source and {} on the target: {why}",
                pair.column.type_name, pair.taken.shown
            )
        });
        Some(Read {
            column: pair.column.name.clone(),
            from: pair.column.reading_shown()?,
            why,
        })
    });
    readings.collect()
}

/// A right that a job needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Right {
    /// Where.
    pub side: Side,
    /// As GRANT spells it.
    pub right: &'static str,
    /// On what: `table public.t`.
    pub on: String,
    /// Whether the user has it.
    pub granted: bool,
}

impl Survey {
    /// The plan, or the first of what stands in its way.
    ///
    /// # Errors
    /// That trouble.
    pub(super) fn into_plan(self) -> Result<Plan> {
        let nothing = || Error::new(Side::Source, Kind::Unknown, "no plan could be made");
        match self.troubles.into_iter().next() {
            Some(trouble) => Err(trouble),
            None => self.plan.ok_or_else(nothing),
        }
    }

    /// Adds what was found of one side alone.
    pub(super) fn add(&mut self, one: Self) {
        self.rights.extend(one.rights);
        self.troubles.extend(one.troubles);
    }

    /// Keeps what succeeded; what failed is a trouble.
    pub(in crate::postgres) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.troubles.push(error)).ok()
    }

    /// Adds rights, and a trouble for each object on which some are missing.
    pub(in crate::postgres) fn need(&mut self, rights: Vec<Right>, hint: impl Fn(&str, &Right) -> String) {
        let mut missing = rights.iter().filter(|right| !right.granted).peekable();
        while let Some(first) = missing.next() {
            let mut names = first.right.to_owned();
            while let Some(next) = missing.next_if(|next| (next.side, &next.on) == (first.side, &first.on)) {
                names += &format!(", {}", next.right);
            }
            let side = first.side;
            let words = format!("the {side}'s user lacks {names} on {}", first.on);
            self.troubles
                .push(Error::new(side, Kind::Privilege, words).hinted(hint(&names, first)));
        }
        self.rights.extend(rights);
    }

    /// What both sides must allow: rights, all rows to be seen, and a target that takes writes where it gets any.
    pub(super) fn need_all(
        &mut self,
        read: &Relation,
        written: &Relation,
        to: &ServerIdentity,
        on_conflict: OnConflict,
        purpose: Purpose,
    ) {
        if to.is_standby && purpose.writes() {
            let words = format!(
                "the target, database {}, is a standby and takes no writes",
                to.database
            );
            self.troubles
                .push(Error::new(Side::Target, Kind::ReadOnly, words));
        }
        self.need_table(read, Side::Source, on_conflict, purpose);
        self.need_table(written, Side::Target, on_conflict, purpose);
        let is_staged = on_conflict != OnConflict::Error && purpose.writes();
        if is_staged || purpose == Purpose::Sync {
            self.need_temporary(&to.database, to.may_create_temporary);
        }
    }

    /// The rights on one side's table, and that no row of it is hidden.
    pub(super) fn need_table(
        &mut self,
        table: &Relation,
        side: Side,
        on_conflict: OnConflict,
        purpose: Purpose,
    ) {
        let mut wanted = vec![("SELECT", table.may_select)];
        if side == Side::Target && purpose.writes() {
            wanted.push(("INSERT", table.may_insert));
            if on_conflict == OnConflict::Update {
                wanted.push(("UPDATE", table.may_update));
            }
        }
        let rights = wanted.into_iter().map(|(right, granted)| Right {
            side,
            right,
            on: format!("table {}", table.name),
            granted,
        });
        self.need(rights.collect(), grant);
        if table.row_security_hides {
            let words = format!(
                "row security on {side} table {} hides rows from this user",
                table.name
            );
            self.troubles
                .push(Error::new(side, Kind::Privilege, words).hinted(
                    "connect as the table's owner or as a role with BYPASSRLS, so that no row is missed",
                ));
        }
    }

    /// An interrupted copy in a snapshot takes its rows away.
    pub(super) fn need_delete(&mut self, table: &Relation) {
        let right = Right {
            side: Side::Target,
            right: "DELETE",
            on: format!("table {}", table.name),
            granted: table.may_delete,
        };
        self.need(vec![right], grant);
    }

    /// What is missing is put into a temporary table first.
    pub(in crate::postgres) fn need_temporary(&mut self, database: &str, granted: bool) {
        let right = Right {
            side: Side::Target,
            right: "TEMPORARY",
            on: format!("database {database}"),
            granted,
        };
        self.need(vec![right], grant);
    }
}

fn grant(names: &str, right: &Right) -> String {
    format!(
        "GRANT {names} ON {} TO the user that connects to the {}",
        right.on, right.side
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rights_on_one_object_are_one_trouble() {
        let right = |right, on: &str, granted| Right {
            side: Side::Target,
            right,
            on: on.to_owned(),
            granted,
        };
        let mut survey = Survey::default();
        survey.need(
            vec![
                right("SELECT", "table t", false),
                right("INSERT", "table t", true),
                right("UPDATE", "table t", false),
                right("TEMPORARY", "database d", false),
            ],
            grant,
        );
        let told: Vec<_> = survey
            .troubles
            .iter()
            .map(|trouble| format!("{trouble}; {}", trouble.hint()))
            .collect();
        assert_eq!(
            told,
            [
                "the target's user lacks SELECT, UPDATE on table t; GRANT SELECT, UPDATE ON table t TO the user that connects to the target",
                "the target's user lacks TEMPORARY on database d; GRANT TEMPORARY ON database d TO the user that connects to the target",
            ]
        );
        assert_eq!(survey.rights.len(), 4);
    }
}
