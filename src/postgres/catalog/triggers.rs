//! What the target runs for a row that is written: triggers and rules, each of which can change, drop or add rows.
//!
//! Triggers that fire are refused unless they are asked for. COPY passes rules by and INSERT does not, so that rules are
//! refused where rows come by INSERT.

use super::fields::Fields;
use super::table::Relation;
use crate::postgres::connect::Session;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_identifier, quote_table};
use crate::table::{OnConflict, TableName};

/// At most so many names are shown.
const SHOWN_LIMIT: usize = 5;

/// What fires, or would be rewritten.
#[derive(Debug, Default)]
pub(super) struct Reactions {
    triggers: Vec<Trigger>,
    /// Names of rules for INSERT and UPDATE, and whether one is for INSERT.
    rules: Vec<String>,
    rewrites_inserts: bool,
}

#[derive(Debug)]
struct Trigger {
    name: String,
    /// The partition that has it, where the table itself has none of that name.
    partition: Option<TableName>,
}

/// Those of the target table that are enabled and concern the rows of this mode.
pub(super) async fn read(session: &Session, table: &Relation, on_conflict: OnConflict) -> Result<Reactions> {
    let what = format!("read the triggers of {} table {}", session.side(), table.name);
    let oid = table.oid;
    // Bits of tgtype: 1 for each row, 4 INSERT, 16 UPDATE. A statement's triggers are those of the table it names.
    let events = match on_conflict {
        OnConflict::Update => 4 | 16,
        OnConflict::Error | OnConflict::Skip => 4,
    };
    // PostgreSQL's own triggers for foreign keys and deferred keys have an index behind them.
    let sql = format!(
        "SELECT g.tgname, c.oid <> {oid}, n.nspname, c.relname
         FROM (SELECT {oid}::pg_catalog.oid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree({oid}) t) p(oid)
         JOIN pg_catalog.pg_trigger g ON g.tgrelid = p.oid
         JOIN pg_catalog.pg_class c ON c.oid = p.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE g.tgenabled IN ('A', {ENABLED}) AND (NOT g.tgisinternal OR g.tgconstrindid = 0)
           AND g.tgtype::pg_catalog.int4 & {events} <> 0
           AND (c.oid = {oid} OR g.tgtype::pg_catalog.int4 & 1 <> 0)
         ORDER BY c.oid <> {oid}, c.oid, g.tgname"
    );
    let mut found = Reactions::default();
    for mut row in session.rows(&what, &sql).await?.into_iter().map(Fields::of) {
        let (name, is_partition) = (row.text(), row.flag());
        // What a partition has from its table is that one's.
        if found.triggers.iter().any(|known| known.name == name) {
            continue;
        }
        let partition = is_partition.then(|| TableName {
            schema: Some(row.text()),
            name: row.text(),
        });
        found.triggers.push(Trigger { name, partition });
    }
    // Kinds of events: 2 UPDATE, 3 INSERT.
    let sql = format!(
        "SELECT r.rulename, r.ev_type = '3' FROM pg_catalog.pg_rewrite r
         WHERE r.ev_class = {oid} AND r.ev_type IN ('2', '3') AND r.ev_enabled IN ('A', {ENABLED}) ORDER BY 1"
    );
    for mut row in session.rows(&what, &sql).await?.into_iter().map(Fields::of) {
        found.rules.push(row.text());
        found.rewrites_inserts |= row.flag();
    }
    Ok(found)
}

/// What is enabled besides "always": which that is, the session decides.
const ENABLED: &str =
    "CASE pg_catalog.current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END";

impl Reactions {
    /// Whether triggers fire.
    pub(super) fn fires(&self) -> bool {
        !self.triggers.is_empty()
    }

    /// What would make rows other than they were sent, a trouble each.
    pub(super) fn check(&self, table: &Relation, on_conflict: OnConflict, fire_triggers: bool) -> Vec<Error> {
        let mut troubles = Vec::new();
        if let (Some(first), false) = (self.triggers.first(), fire_triggers) {
            let words = format!(
                "triggers of target table {} would fire for the rows that are copied, and can change, drop or add rows: {}",
                table.name,
                self.triggers_shown()
            );
            let owner = first.partition.as_ref().unwrap_or(&table.name);
            let which = match self.triggers.as_slice() {
                [only] => quote_identifier(&only.name),
                _ => "USER".to_owned(),
            };
            troubles.push(Error::new(Side::Target, Kind::Unsupported, words).hinted(format!(
                "disable them for the time of the copy (ALTER TABLE {} DISABLE TRIGGER {which}), or let them fire: \
                 --fire-triggers",
                quote_table(owner)
            )));
        }
        if let (Some(first), true) = (self.rules.first(), on_conflict != OnConflict::Error) {
            let words = format!(
                "target table {} has rules for INSERT or UPDATE, which would rewrite what --on-conflict does: {}",
                table.name,
                shown(&self.rules)
            );
            troubles.push(Error::new(Side::Target, Kind::Unsupported, words).hinted(format!(
                "disable them for the time of the copy: ALTER TABLE {} DISABLE RULE {}",
                quote_table(&table.name),
                quote_identifier(first)
            )));
        }
        troubles
    }

    pub(super) fn warnings(&self, table: &Relation) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.fires() {
            warnings.push(format!(
                "triggers of target table {} fire for the rows that are copied, and can change them: {}",
                table.name,
                self.triggers_shown()
            ));
        }
        if self.rewrites_inserts {
            warnings.push(format!(
                "target table {} has rules for INSERT, which COPY passes by: {}",
                table.name,
                shown(&self.rules)
            ));
        }
        warnings
    }

    fn triggers_shown(&self) -> String {
        let names = self.triggers.iter().map(|trigger| match &trigger.partition {
            Some(partition) => format!("{} of {partition}", trigger.name),
            None => trigger.name.clone(),
        });
        shown(&names.collect::<Vec<_>>())
    }
}

fn shown(names: &[String]) -> String {
    let mut text = names[..names.len().min(SHOWN_LIMIT)].join(", ");
    if names.len() > SHOWN_LIMIT {
        text.push_str(&format!(" and {} more", names.len() - SHOWN_LIMIT));
    }
    text
}
