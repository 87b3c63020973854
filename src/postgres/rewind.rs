//! Whether the source has gone back in time: failed over to a standby that lagged, or restored to an older state.
//!
//! Such a source may lack rows that were copied, and gives their keys to other rows: a job that went on along its cursor
//! would never see those. Its highest key alone proves nothing, for the last rows may have been deleted; its write-ahead
//! log does. What is remembered is the place in the log at which the highest key was first seen, so that a failover that
//! lost only what came later, of other tables perhaps, disturbs nobody. Kept in the ledger, beside the cursor it is of.

use super::catalog::identify;
use super::connect::Session;
use super::cursor;
use super::error::{Error, Kind, Result, Side};
use super::ledger;
use crate::table::{Key, Lsn, Plan, SourceSeen, TableSpec, Wal};

/// How far the log is. What a primary has written and not flushed is not counted: a crash may take it back.
const WAL: &str = "
SELECT pg_catalog.pg_is_in_recovery(),
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_flush_lsn() END,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN pg_catalog.\"left\"(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()), 8) END,
       pg_catalog.pg_last_wal_replay_lsn()";

/// How the source's log stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Now {
    wal: Wal,
    is_standby: bool,
    /// Where it ended its recovery, if this server was started in recovery: at the latest where its timeline begins.
    recovered_to: Option<Lsn>,
    /// The history of its timeline, where this user may read it.
    history: Option<String>,
}

/// What became of a log since it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It goes on from there.
    GoesOn,
    /// Another timeline, which begins later than what was seen.
    FailedOver,
    /// Another timeline, and nobody tells where it begins.
    Unknown,
    /// A standby that has not replayed as much yet.
    Lags,
    /// It goes on from before that.
    Back,
}

/// Refuses a source that has gone back in time since the job saw it. Asks the ledger what that was; writes nothing.
///
/// # Errors
/// `SourceRewound`; `Transient` on a standby that has not caught up; `TableChanged` where the session is with another
/// database than the plan is of; or what goes wrong in asking.
pub async fn check(source: &Session, target: &Session, spec: &TableSpec, plan: &Plan) -> Result<()> {
    let Some(seen) = ledger::source_seen(target, spec, plan).await? else {
        return Ok(());
    };
    let highest = cursor::highest_key(source, plan).await?;
    let top = greatest(source, plan, [seen.key.as_ref(), highest.as_ref(), None]).await?;
    look(source, spec, plan, Some(&seen), highest.as_ref(), top.as_ref())
        .await
        .map(drop)
}

/// The same, and keeps in the ledger what is seen now; what is odd about it is logged, once. Idempotent.
///
/// `highest` was read before the call; `end` is where the ledger's account of what was copied ends.
///
/// # Errors
/// As [`check`]; `Fenced` where a later run has taken over.
pub async fn note(
    source: &Session,
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    epoch: u64,
    highest: Option<&Key>,
    end: Option<&Key>,
) -> Result<()> {
    let earlier = ledger::source_seen(target, spec, plan).await?;
    let known = earlier.as_ref().and_then(|earlier| earlier.key.as_ref());
    let top = greatest(source, plan, [known, end, highest]).await?;
    let looked = look(source, spec, plan, earlier.as_ref(), highest, top.as_ref()).await?;
    looked.tell(spec, plan, earlier.as_ref());
    let seen = looked.seen(earlier.as_ref(), top);
    if earlier.as_ref() == Some(&seen) {
        return Ok(());
    }
    ledger::set_source_seen(target, spec, plan, epoch, &seen).await
}

/// What a look has found that does not stand in the way.
struct Looked {
    now: Option<Now>,
    verdict: Verdict,
    is_below: bool,
}

async fn look(
    source: &Session,
    spec: &TableSpec,
    plan: &Plan,
    earlier: Option<&SourceSeen>,
    highest: Option<&Key>,
    top: Option<&Key>,
) -> Result<Looked> {
    must_be_the_planned_one(source, plan).await?;
    let before = earlier.and_then(|earlier| earlier.wal);
    let now = read(source, before).await?;
    // Where equal keys have several spellings, another text may be the same key.
    let is_exact = plan.key.iter().all(|column| column.is_exact);
    let is_below = is_exact && top.is_some() && top != highest;
    let verdict = match (before, &now) {
        (Some(before), Some(now)) => judge(before, now),
        _ => Verdict::GoesOn,
    };
    let (Some(before), Some(now_there)) = (before, &now) else {
        return Ok(Looked {
            now,
            verdict,
            is_below,
        });
    };
    match verdict {
        Verdict::Lags => {
            let words = format!(
                "the source is a standby that has replayed its log up to {}, and job {} has seen it at {}",
                now_there.wal.lsn, spec.job, before.lsn
            );
            Err(Error::new(Side::Source, Kind::Transient, words)
                .hinted("the job goes on once it has caught up"))
        }
        // A new timeline and keys that are gone as well: nobody has deleted those by chance.
        Verdict::Back => Err(rewound(spec, plan, before, now_there, highest, top)),
        Verdict::Unknown if is_below => Err(rewound(spec, plan, before, now_there, highest, top)),
        _ => Ok(Looked {
            now,
            verdict,
            is_below,
        }),
    }
}

impl Looked {
    fn tell(&self, spec: &TableSpec, plan: &Plan, earlier: Option<&SourceSeen>) {
        let job = &spec.job;
        match self.verdict {
            Verdict::FailedOver => tracing::info!(
                "the source of job {job} was failed over; it has all that the job has seen of it, which goes on"
            ),
            Verdict::Unknown => tracing::warn!(
                "the source of job {job} was failed over, and this user cannot see whether it has all that was copied of {} \
                 (longhaul verify {job} --against source tells)",
                plan.source
            ),
            _ => {}
        }
        if self.is_below && !earlier.is_some_and(|earlier| earlier.told_below) {
            tracing::warn!(
                "the highest key of source table {} lies below where job {job} has come: its last rows were deleted, or the \
                 source was restored to an older state. New rows whose keys were there before may not be copied (longhaul \
                 verify {job} --against source tells what differs)",
                plan.source
            );
        }
    }

    /// What is remembered now: the place in the log moves with the key alone.
    fn seen(&self, earlier: Option<&SourceSeen>, top: Option<Key>) -> SourceSeen {
        let before = earlier.filter(|earlier| earlier.key == top || self.is_below);
        let now = self.now.as_ref().map(|now| now.wal);
        let wal = match (before.and_then(|before| before.wal), now) {
            (Some(before), Some(now)) => Some(Wal {
                timeline: now.timeline.or(before.timeline),
                lsn: before.lsn,
            }),
            (before, now) => now.or(before),
        };
        SourceSeen {
            key: top,
            wal,
            told_below: self.is_below,
        }
    }
}

/// A job that runs is not led to another cluster by a name that means another address now.
async fn must_be_the_planned_one(source: &Session, plan: &Plan) -> Result<()> {
    let now = identify(source).await?;
    if now.is(&plan.source_identity) != Some(false) {
        return Ok(());
    }
    let words = format!(
        "the source is {now}, and {} was when the job was prepared",
        plan.source_identity
    );
    Err(Error::new(Side::Source, Kind::TableChanged, words))
}

async fn greatest(source: &Session, plan: &Plan, keys: [Option<&Key>; 3]) -> Result<Option<Key>> {
    let mut keys: Vec<_> = keys.into_iter().flatten().cloned().collect();
    keys.dedup();
    Ok(cursor::sort_keys(source, plan, keys).await?.pop())
}

/// `None` where the server does not tell; some that are managed have no such log, or no right to ask for it.
async fn read(source: &Session, before: Option<Wal>) -> Result<Option<Now>> {
    let what = "ask the source how far its log is";
    let Some(row) = unless_refused(source.row(what, WAL).await)? else {
        return Ok(None);
    };
    let field = |number: usize| row.get(number).and_then(Option::as_deref);
    let lsn = |number: usize| field(number).and_then(|text| text.parse::<Lsn>().ok());
    let Some(here) = lsn(1) else {
        return Ok(None);
    };
    let mut now = Now {
        is_standby: field(0) == Some("t"),
        wal: Wal {
            timeline: field(2).and_then(|text| u32::from_str_radix(text, 16).ok()),
            lsn: here,
        },
        recovered_to: lsn(3),
        history: None,
    };
    if let (Some(before), Some(timeline)) = (before.and_then(|before| before.timeline), now.wal.timeline)
        && before < timeline
    {
        now.history = read_history(source, timeline).await?;
    }
    Ok(Some(now))
}

/// What the server wrote down when its timeline began: superusers may read it, and who was granted the function.
async fn read_history(source: &Session, timeline: u32) -> Result<Option<String>> {
    let what = "read the history of the source's timeline";
    let sql = format!("SELECT pg_catalog.pg_read_file('pg_wal/{timeline:08X}.history')");
    match unless_refused(source.row(what, &sql).await) {
        Ok(row) => Ok(row.and_then(|row| row.into_iter().next().flatten())),
        // 58P01: the file is gone.
        Err(error) if error.sqlstate() == Some("58P01") => Ok(None),
        Err(error) => Err(error),
    }
}

fn unless_refused<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if matches!(error.sqlstate(), Some("42501" | "0A000" | "42883")) => Ok(None),
        Err(error) => Err(error),
    }
}

fn judge(seen: Wal, now: &Now) -> Verdict {
    let is_back = now.wal.lsn < seen.lsn;
    if now.is_standby {
        return if is_back { Verdict::Lags } else { Verdict::GoesOn };
    }
    if is_back {
        return Verdict::Back;
    }
    let (Some(then), Some(timeline)) = (seen.timeline, now.wal.timeline) else {
        return Verdict::GoesOn;
    };
    if then == timeline {
        return Verdict::GoesOn;
    }
    if timeline < then {
        return Verdict::Back;
    }
    let begins = match &now.history {
        Some(history) => match left_at(history, then) {
            Some(lsn) => Some(lsn),
            // Of another branch.
            None => return Verdict::Back,
        },
        None => now.recovered_to,
    };
    match begins {
        Some(begins) if begins < seen.lsn => Verdict::Back,
        Some(_) => Verdict::FailedOver,
        None => Verdict::Unknown,
    }
}

/// Where a timeline was left for the next one; `None` where it is not among the ancestors.
fn left_at(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.next()?.parse() == Ok(timeline);
        words.next().filter(|_| is_it)?.parse().ok()
    })
}

fn rewound(
    spec: &TableSpec,
    plan: &Plan,
    seen: Wal,
    now: &Now,
    highest: Option<&Key>,
    top: Option<&Key>,
) -> Error {
    let at = |wal: &Wal| match wal.timeline {
        Some(timeline) => format!("{} on timeline {timeline}", wal.lsn),
        None => wal.lsn.to_string(),
    };
    let key = |key: Option<&Key>| key.map_or("none".to_owned(), |key| format!("({})", key.0.join(", ")));
    let words = format!(
        "the source has gone back in time: it was failed over or restored to an older state. Job {} had seen its log at {}, \
         and key {} of {}; now it is at {}, and the highest key is {}",
        spec.job,
        at(&seen),
        key(top),
        plan.source,
        at(&now.wal),
        key(highest)
    );
    Error::new(Side::Source, Kind::SourceRewound, words).hinted(format!(
        "new rows may have the keys of rows that were copied. Copy every row again, over those that are there: --restart \
         --on-conflict update; then longhaul verify {} --against source --repair --delete-extra takes away what only the \
         target has",
        spec.job
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(timeline: u32, lsn: u64) -> Wal {
        Wal {
            timeline: Some(timeline),
            lsn: Lsn(lsn),
        }
    }

    fn primary(timeline: u32, lsn: u64) -> Now {
        Now {
            wal: wal(timeline, lsn),
            is_standby: false,
            recovered_to: None,
            history: None,
        }
    }

    #[test]
    fn a_log_that_is_shorter_than_it_was_has_gone_back() {
        assert_eq!(judge(wal(1, 100), &primary(1, 100)), Verdict::GoesOn);
        assert_eq!(judge(wal(1, 100), &primary(1, 99)), Verdict::Back);
        assert_eq!(judge(wal(1, 100), &primary(2, 99)), Verdict::Back);
        assert_eq!(
            judge(wal(2, 100), &primary(1, 900)),
            Verdict::Back,
            "an older history"
        );
        let of_standby = Wal {
            timeline: None,
            lsn: Lsn(100),
        };
        assert_eq!(judge(of_standby, &primary(3, 100)), Verdict::GoesOn);
        assert_eq!(judge(of_standby, &primary(3, 99)), Verdict::Back);
    }

    #[test]
    fn after_a_failover_it_matters_where_the_new_timeline_begins() {
        let history = "1\t0/50\tno recovery target specified\n\n2\t0/90\tno recovery target specified\n";
        let now = |history: Option<&str>, recovered_to: Option<u64>| Now {
            recovered_to: recovered_to.map(Lsn),
            history: history.map(str::to_owned),
            ..primary(3, 0x500)
        };
        assert_eq!(
            judge(wal(1, 0x50), &now(Some(history), None)),
            Verdict::FailedOver
        );
        assert_eq!(judge(wal(1, 0x51), &now(Some(history), None)), Verdict::Back);
        assert_eq!(
            judge(wal(2, 0x90), &now(Some(history), None)),
            Verdict::FailedOver
        );
        assert_eq!(judge(wal(2, 0x91), &now(Some(history), None)), Verdict::Back);
        let other = "1\t0/50\tno recovery target specified\n";
        assert_eq!(
            judge(wal(2, 0x10), &now(Some(other), None)),
            Verdict::Back,
            "another branch"
        );
        assert_eq!(judge(wal(2, 0x90), &now(None, Some(0x90))), Verdict::FailedOver);
        assert_eq!(judge(wal(2, 0x91), &now(None, Some(0x90))), Verdict::Back);
        assert_eq!(judge(wal(2, 0x91), &now(None, None)), Verdict::Unknown);
    }

    #[test]
    fn a_standby_is_waited_for() {
        let standby = |lsn| Now {
            is_standby: true,
            wal: Wal {
                timeline: None,
                lsn: Lsn(lsn),
            },
            ..primary(1, 0)
        };
        assert_eq!(judge(wal(1, 100), &standby(99)), Verdict::Lags);
        assert_eq!(judge(wal(1, 100), &standby(100)), Verdict::GoesOn);
    }

    #[test]
    fn the_place_in_the_log_moves_with_the_key_alone() {
        let key = |text: &str| Some(Key(vec![text.to_owned()]));
        let looked = |is_below| Looked {
            now: Some(primary(2, 700)),
            verdict: Verdict::GoesOn,
            is_below,
        };
        let earlier = SourceSeen {
            key: key("5"),
            wal: Some(wal(1, 300)),
            told_below: false,
        };
        let same = looked(false).seen(Some(&earlier), key("5"));
        assert_eq!((same.wal, same.told_below), (Some(wal(2, 300)), false));
        let below = looked(true).seen(Some(&earlier), key("5"));
        assert_eq!((below.wal, below.told_below), (Some(wal(2, 300)), true));
        let higher = looked(false).seen(Some(&earlier), key("6"));
        assert_eq!((higher.key, higher.wal), (key("6"), Some(wal(2, 700))));
        assert_eq!(looked(false).seen(None, key("6")).wal, Some(wal(2, 700)));
    }
}
