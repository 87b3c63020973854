//! What the target runs for a row that is written: triggers and rules, each of which can change, drop or add rows.
//!
//! Triggers that fire are refused unless they are asked for. COPY passes rules by and INSERT does not, so that rules are
//! refused where rows come by INSERT. A repair updates and deletes as well, and asks for what concerns that.

use super::fields::Fields;
use super::key::check_coarser;
use super::table::Relation;
use crate::postgres::connect::Session;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_identifier, quote_literal, quote_table};
use crate::table::{OnConflict, Plan, TableName, TableSpec};

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
    /// Bits of [`INSERT`], [`DELETE`], [`UPDATE`].
    events: i32,
    /// The partition that has it, where the table itself has none of that name.
    partition: Option<TableName>,
}

/// Events, as the bits of a trigger's type.
const INSERT: i32 = 4;
const DELETE: i32 = 8;
const UPDATE: i32 = 16;

/// What a copy in this mode does to a table.
fn events_of(on_conflict: OnConflict) -> i32 {
    match on_conflict {
        OnConflict::Update => INSERT | UPDATE,
        OnConflict::Error | OnConflict::Skip => INSERT,
    }
}

/// Those of the target table that are enabled and concern the rows of this mode.
pub(super) async fn read(session: &Session, table: &Relation, on_conflict: OnConflict) -> Result<Reactions> {
    read_events(
        session,
        (&table.name, table.oid),
        events_of(on_conflict),
        INSERT | UPDATE,
    )
    .await
}

/// That a repair of the target table fires no trigger and meets no rule, but for triggers that the job itself may fire; says
/// whether it fires any.
///
/// It writes by INSERT .. ON CONFLICT DO UPDATE; it deletes where extra rows are to go, and where no unique index tells which
/// row is updated. No job deletes, so what fires for that is never among what it may fire.
///
/// # Errors
/// `Unsupported`; or what goes wrong in asking.
pub async fn check_repair(
    target: &Session,
    plan: &Plan,
    spec: &TableSpec,
    delete_extra: bool,
) -> Result<bool> {
    check_coarser(&plan.target, &plan.key)?;
    let mut events = INSERT;
    if plan.target_key_is_unique {
        events |= UPDATE;
    }
    if delete_extra || !plan.target_key_is_unique {
        events |= DELETE;
    }
    let what = format!("read the triggers of target table {}", plan.target);
    let oid = format!(
        "SELECT pg_catalog.to_regclass({})::pg_catalog.oid",
        quote_literal(&quote_table(&plan.target))
    );
    let oid = target.row(&what, &oid).await?.pop().flatten();
    let Some(oid) = oid.and_then(|oid| oid.parse().ok()) else {
        let words = format!("table {} does not exist on the target any more", plan.target);
        return Err(Error::new(Side::Target, Kind::UndefinedObject, words));
    };
    let mut found = read_events(target, (&plan.target, oid), events, events).await?;
    let fires = found.fires();
    let may = if spec.fire_triggers {
        events_of(spec.on_conflict)
    } else {
        0
    };
    found
        .triggers
        .retain(|trigger| trigger.events & may == 0 || trigger.events & events & DELETE != 0);
    found.check_repair(&plan.target)?;
    Ok(fires)
}

/// Those that are enabled: triggers that concern `events`, and rules that concern `ruled`.
async fn read_events(
    session: &Session,
    (table, oid): (&TableName, u32),
    events: i32,
    ruled: i32,
) -> Result<Reactions> {
    let what = format!("read the triggers of {} table {table}", session.side());
    // Another bit of tgtype is 1, for each row. A statement's triggers are those of the table it names.
    // PostgreSQL's own triggers for foreign keys and deferred keys have an index behind them.
    let sql = format!(
        "SELECT g.tgname, g.tgtype, c.oid <> {oid}, n.nspname, c.relname
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
        let (name, events, is_partition) = (row.text(), row.number(), row.flag());
        // What a partition has from its table is that one's.
        if found.triggers.iter().any(|known| known.name == name) {
            continue;
        }
        let partition = is_partition.then(|| TableName {
            schema: Some(row.text()),
            name: row.text(),
        });
        found.triggers.push(Trigger {
            name,
            events,
            partition,
        });
    }
    let kinds = [(UPDATE, "'2'"), (INSERT, "'3'"), (DELETE, "'4'")];
    let kinds = kinds.into_iter().filter(|(event, _)| ruled & event != 0);
    let kinds: Vec<_> = kinds.map(|(_, kind)| kind).collect();
    let sql = format!(
        "SELECT r.rulename, r.ev_type = '3' FROM pg_catalog.pg_rewrite r
         WHERE r.ev_class = {oid} AND r.ev_type IN ({}) AND r.ev_enabled IN ('A', {ENABLED}) ORDER BY 1",
        kinds.join(", ")
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
        if let (Some(disable), false) = (self.disable_triggers(&table.name), fire_triggers) {
            let words = format!(
                "triggers of target table {} would fire for the rows that are copied, and can change, drop or add rows: {}",
                table.name,
                self.triggers_shown()
            );
            troubles.push(Error::new(Side::Target, Kind::Unsupported, words).hinted(format!(
                "disable them for the time of the copy ({disable}), or let them fire: --fire-triggers"
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

    /// Refuses what would make rows other than a repair wrote them.
    fn check_repair(&self, table: &TableName) -> Result<()> {
        let (words, disable) = if let Some(disable) = self.disable_triggers(table) {
            let words = format!(
                "triggers of target table {table} would fire for the rows that a repair writes or deletes, and can change, drop or \
                 add rows: {}",
                self.triggers_shown()
            );
            (words, disable)
        } else if let Some(first) = self.rules.first() {
            let words = format!(
                "target table {table} has rules, which would rewrite what a repair does: {}",
                shown(&self.rules)
            );
            let disable = format!(
                "ALTER TABLE {} DISABLE RULE {}",
                quote_table(table),
                quote_identifier(first)
            );
            (words, disable)
        } else {
            return Ok(());
        };
        Err(Error::new(Side::Target, Kind::Unsupported, words)
            .hinted(format!("disable them for the time of the repair: {disable}")))
    }

    /// The statement that disables the triggers, as far as one can; `None` where none fires.
    fn disable_triggers(&self, table: &TableName) -> Option<String> {
        let first = self.triggers.first()?;
        let which = match self.triggers.as_slice() {
            [only] => quote_identifier(&only.name),
            _ => "USER".to_owned(),
        };
        let owner = quote_table(first.partition.as_ref().unwrap_or(table));
        Some(format!("ALTER TABLE {owner} DISABLE TRIGGER {which}"))
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
