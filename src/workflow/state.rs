//! What a job's workflow knows of its table: enough to decide again after a crash, and to go on in a new run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::verifying::VerifyState;
use super::witnesses::Witnesses;
use crate::activity::{Looked, NoteWritersOutput, PrepareOutput};
use crate::job::JobSpec;
use crate::table::{Fence, Key, Lost, Noted, Pass, Plan, Position, SourceClock, Tally};

/// What the workflow is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInput {
    /// What was asked for.
    pub spec: JobSpec,
    /// Begins paused.
    #[serde(default)]
    pub paused: bool,
    /// Where the run before has come to; `None` for the first.
    #[serde(default)]
    pub state: Option<TableState>,
    /// Where its verification has come to.
    #[serde(default)]
    pub verifying: Option<VerifyState>,
    /// What an earlier run of the job, which has ended, was told is on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Position>,
    /// What the ledger had when the job was begun. Nothing is decided by it: it is shown until the table is prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Tally>,
}

/// A table that is prepared: the workflow's state, and what a run hands to the one that continues it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// How the table is copied.
    pub plan: Plan,
    /// How far it is.
    pub position: Position,
    /// What the target must still have.
    #[serde(default)]
    pub told: Witnesses,
    /// The key up to which a migrate copies: the highest one when it began, however often it is prepared again. `None`
    /// where there was no row then, and in a sync.
    #[serde(default)]
    pub until: Option<Key>,
    /// The snapshot of the source in which all of it is read, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// What the ledger had when the job began.
    #[serde(default)]
    pub found: Tally,
    /// What the passes that copy brought since then; its rows are what batches are sized by.
    #[serde(default)]
    pub brought: Tally,
    /// All that the target had confirmed and lost again.
    #[serde(default)]
    pub lost: Lost,
    /// How often it was prepared again.
    #[serde(default)]
    pub prepared_again: u32,
    /// What was noted, and waits for its writers to end (sync).
    #[serde(default)]
    pub noted: Option<Noted>,
    /// What the source's clock showed when what is settled was, where it fills the key (sync).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<SourceClock>,
    /// Rounds of a sync that are over.
    #[serde(default)]
    pub rounds: u64,
    /// The round that is going on (sync), or a migrate's look at what the ledger had when it began.
    #[serde(default)]
    pub round: Option<Round>,
    /// When the next round begins, in milliseconds of Unix time, if the run before ended asleep.
    #[serde(default)]
    pub sleep_until_ms: Option<u64>,
}

/// One round of a sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Who was writing when it began, and where its second look begins.
    pub found: NoteWritersOutput,
    /// How far the second look has come. It ends at the end of what the ledger had when the round began.
    #[serde(flatten)]
    pub looked: Looked,
}

/// What a batch took along when it was scheduled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Carried {
    /// The batches that it vouches for once it is confirmed.
    pub witnesses: Vec<u64>,
    /// Up to where the second look had come.
    pub looked_to: Option<Key>,
}

impl TableState {
    /// A table that was prepared for the first time.
    pub(super) fn begin(prepared: PrepareOutput, is_sync: bool) -> Self {
        let again = prepared.again;
        let mut state = Self {
            plan: prepared.plan,
            told: Witnesses::default(),
            until: prepared.highest.filter(|_| !is_sync),
            snapshot: prepared.snapshot,
            found: prepared.position.tally,
            position: prepared.position,
            brought: Tally::default(),
            lost: prepared.lost.unwrap_or_default(),
            prepared_again: 0,
            noted: None,
            clock: prepared.clock,
            rounds: 0,
            round: None,
            sleep_until_ms: None,
        };
        if let Some(found) = again {
            state.begin_round(found);
        }
        state
    }

    /// The table was prepared again: what the ledger says now is what holds.
    pub(super) fn begin_again(&mut self, prepared: PrepareOutput) {
        self.plan = prepared.plan;
        // The numbers of batches that are lost are not given again.
        let next_batch = self.position.next_batch.max(prepared.position.next_batch);
        self.position = Position {
            next_batch,
            ..prepared.position
        };
        self.told.clear();
        if prepared.snapshot != self.snapshot {
            // The table starts again, as it is in that one.
            (self.until, self.snapshot) = (prepared.highest, prepared.snapshot);
        }
        self.prepared_again = self.prepared_again.saturating_add(1);
        self.sleep_until_ms = None;
        if let Some(lost) = prepared.lost {
            self.lost.batches += lost.batches;
            self.lost.rows += lost.rows;
            self.lost.since = lost.since;
        }
        match (prepared.looked, &mut self.round) {
            // What was noted before the look began holds of all that it has seen since, and of all that was copied since.
            (Some(looked), Some(round)) => round.looked = looked,
            (Some(_), None) => {}
            (None, _) => {
                // Who was noted, was noted of rows that may be lost; the ledger says what is settled.
                (self.noted, self.round, self.clock) = (None, None, prepared.clock);
                if let Some(found) = prepared.again {
                    self.begin_round(found);
                }
            }
        }
    }

    /// What another preparation of the table need not look at again: of a migrate, where none was begun, that there is none.
    pub(super) fn looked(&self, is_sync: bool) -> Option<Looked> {
        let round = self.round.as_ref();
        round
            .map(|round| round.looked.clone())
            .or((!is_sync).then(Looked::default))
    }

    /// What the target must still know for a batch that is scheduled now.
    pub(super) fn fence(&self) -> Fence {
        Fence {
            epoch: self.position.epoch,
            digest: self.plan.digest.clone(),
            witnesses: self.told.now().to_vec(),
            snapshot: self.snapshot.clone(),
        }
    }

    /// A batch came back: its number, what it carried, what it did.
    pub(super) fn confirm(&mut self, pass: Pass, number: u64, carried: Carried, tally: Tally) {
        // A look that found nothing missing left nothing in the ledger that could vouch for anything.
        if tally.batches > 0 {
            self.position.tally += tally;
            self.told.confirm(number, &carried.witnesses);
            if let Some(round) = &mut self.round {
                round.looked.prove(number, carried.looked_to);
            }
        }
        if pass == Pass::Copy {
            self.brought += tally;
        }
    }

    /// Mean wire bytes of a row: as copied so far, else by the catalog's estimates.
    pub(super) fn row_bytes(&self) -> Option<u64> {
        let estimates = self.plan.bytes_estimate.zip(self.plan.rows_estimate);
        let estimated = estimates.and_then(|(bytes, rows)| bytes.checked_div(rows));
        self.brought.row_bytes().or(estimated)
    }

    /// Where a migrate's pass ends; `None` where there is nothing to copy.
    pub(super) fn migrate_stop(&self) -> Option<Key> {
        // Of a source that was emptied the ledger's gaps are still gone over, so that its ranges join up.
        self.until.clone().or_else(|| self.gap_stop())
    }

    /// Where the last range ends that is done beyond a gap.
    pub(super) fn gap_stop(&self) -> Option<Key> {
        self.position.beyond.last().map(|range| range.high.clone())
    }

    /// A round of a sync begins. Its second look covers all that the ledger has, ranges beyond gaps included: they may be
    /// of an earlier run, which looked at them before their writers had ended.
    pub(super) fn begin_round(&mut self, found: NoteWritersOutput) {
        if found.unsettled.is_some() {
            (self.position.settled, self.noted) = (found.unsettled.clone(), None);
        }
        self.round = Some(Round {
            looked: Looked {
                looked_to: found.look_from.clone(),
                frontier: self.position.end().cloned(),
                ..Looked::default()
            },
            found,
        });
    }

    /// The second look that a migrate has yet to do; `None` once it has come to its end.
    pub(super) fn look_to_do(&self) -> Option<Looked> {
        let looked = self.round.as_ref().map(|round| &round.looked);
        looked.filter(|looked| !looked.is_over).cloned()
    }

    /// What a migrate found in the ledger was looked at again.
    pub(super) fn end_look(&mut self) {
        if let Some(round) = &mut self.round {
            round.looked.end();
        }
    }

    /// Where a migrate is that has copied all: whatever was visible when its second look began is on the target.
    pub(super) fn concluded(&self) -> Position {
        let mut position = self.position.clone();
        let now = self.round.as_ref().map(|round| &round.found.now);
        if let Some(key) = now
            .filter(|now| now.holders.is_empty())
            .and_then(|now| now.key.as_ref())
        {
            position.settled = Some(key.clone());
        }
        position
    }

    /// A round is over: what was noted before it is settled if its writers had ended, and so is what was noted in it if
    /// nobody was writing.
    pub(super) fn settle(&mut self, found: NoteWritersOutput) {
        self.rounds += 1;
        self.round = None;
        self.clock = found.clock;
        let settled = &mut self.position.settled;
        if found.now.holders.is_empty() {
            // Whatever is at most this key was visible when this round copied.
            (*settled, self.noted) = (found.now.key.or(settled.take()), None);
            return;
        }
        match found.before {
            Some(before) if !before.holders.is_empty() => self.noted = Some(before),
            before => {
                *settled = before.and_then(|before| before.key).or(settled.take());
                self.noted = Some(found.now);
            }
        }
    }
}

/// How long to wait before a table is prepared again that was so many times in a row, with no batch confirmed in between.
pub(super) fn pause_before_preparing(times_in_vain: u32) -> Duration {
    match times_in_vain {
        0 | 1 => Duration::ZERO,
        times => Duration::from_secs(1 << (times - 2).min(5)).min(LONGEST_PAUSE),
    }
}

/// What asks for it that often needs somebody to mend it, who does not want to wait much longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{
        CopyFormat, DatabaseIdentity, Growth, Holder, KeyRange, OnConflict, PlanDigest, TableName,
    };

    fn key(text: &str) -> Key {
        Key(vec![text.to_owned()])
    }

    fn name(text: &str) -> TableName {
        text.parse().expect("a name")
    }

    fn plan() -> Plan {
        Plan {
            source: name("public.a"),
            target: name("public.b"),
            source_identity: DatabaseIdentity {
                system_identifier: None,
                database: "d".to_owned(),
            },
            digest: PlanDigest {
                source: "s".to_owned(),
                target: "t".to_owned(),
                ..PlanDigest::default()
            },
            source_files: String::new(),
            target_files: String::new(),
            columns: Vec::new(),
            filter: None,
            key: Vec::new(),
            key_basis: Default::default(),
            source_kind: Default::default(),
            format: CopyFormat::Binary,
            on_conflict: OnConflict::Error,
            target_key_is_unique: true,
            same_order: true,
            source_is_partitioned: false,
            target_is_partitioned: false,
            source_is_standby: false,
            target_fires_triggers: false,
            growth: Growth::Grows,
            rows_estimate: Some(10),
            bytes_estimate: Some(1000),
            warnings: Vec::new(),
        }
    }

    fn prepared(highest: Option<&str>) -> PrepareOutput {
        PrepareOutput {
            plan: plan(),
            position: Position {
                begun: 0,
                epoch: 3,
                copied: Some(key("5")),
                beyond: vec![KeyRange {
                    low: Some(key("7")),
                    high: key("9"),
                }],
                settled: Some(key("4")),
                next_batch: 12,
                tally: tally(50, 500),
            },
            highest: highest.map(key),
            lost: None,
            again: None,
            looked: None,
            clock: None,
            snapshot: None,
        }
    }

    fn tally(rows: u64, bytes: u64) -> Tally {
        Tally {
            rows,
            skipped: 0,
            bytes,
            batches: 1,
            checksum: rows,
        }
    }

    fn carried(witnesses: &[u64]) -> Carried {
        Carried {
            witnesses: witnesses.to_vec(),
            looked_to: None,
        }
    }

    fn noted(highest: &str, holders: usize) -> Noted {
        let holder = Holder {
            virtual_transaction: Some("1/1".to_owned()),
            pid: Some(1),
            prepared: None,
            shown: "somebody".to_owned(),
        };
        Noted {
            key: Some(key(highest)),
            holders: vec![holder; holders],
            server_started_at: String::new(),
        }
    }

    fn found(now: Noted, before: Option<Noted>) -> NoteWritersOutput {
        NoteWritersOutput {
            now,
            before,
            look_from: Some(key("2")),
            clock: None,
            unsettled: None,
        }
    }

    #[test]
    fn a_migrate_ends_at_the_key_that_was_highest_when_it_began() {
        let mut state = TableState::begin(prepared(Some("100")), false);
        assert_eq!(state.migrate_stop(), Some(key("100")));
        state.begin_again(prepared(Some("200")));
        assert_eq!(state.migrate_stop(), Some(key("100")));
        assert_eq!(TableState::begin(prepared(Some("100")), true).until, None);
    }

    #[test]
    fn a_migrate_of_an_empty_table_closes_gaps_and_copies_nothing_else() {
        let mut state = TableState::begin(prepared(None), false);
        assert_eq!(state.migrate_stop(), Some(key("9")));
        state.position.beyond.clear();
        assert_eq!(state.migrate_stop(), None);
        state.begin_again(PrepareOutput {
            position: Position::default(),
            ..prepared(Some("3"))
        });
        assert_eq!(state.migrate_stop(), None, "what came later is not followed");
    }

    #[test]
    fn a_batch_that_wrote_no_entry_changes_neither_totals_nor_witnesses() {
        let mut state = TableState::begin(prepared(None), true);
        state.confirm(Pass::Look, 12, carried(&[]), tally(10, 9000));
        assert_eq!((state.position.tally.rows, state.told.now()), (60, &[12_u64][..]));
        let nothing = Tally {
            batches: 0,
            ..tally(10, 100)
        };
        state.confirm(Pass::Look, 13, carried(&[12]), nothing);
        assert_eq!((state.position.tally.rows, state.told.now()), (60, &[12_u64][..]));
        assert_eq!(state.fence().witnesses, [12]);
        assert_eq!(state.fence().epoch, 3);
    }

    #[test]
    fn batches_are_sized_by_what_was_copied_and_not_by_what_was_looked_at() {
        let mut state = TableState::begin(prepared(None), true);
        assert_eq!(state.row_bytes(), Some(100), "by the estimates");
        state.confirm(Pass::Look, 12, carried(&[]), tally(1, 1_000_000));
        assert_eq!(state.row_bytes(), Some(100));
        state.confirm(Pass::Copy, 13, carried(&[]), tally(10, 300));
        assert_eq!(state.row_bytes(), Some(30));
    }

    #[test]
    fn what_was_lost_is_summed_and_the_ledger_is_believed() {
        let mut state = TableState::begin(prepared(None), true);
        state.confirm(Pass::Copy, 12, carried(&[]), tally(10, 300));
        state.noted = Some(noted("8", 1));
        state.position.next_batch = 40;
        state.begin_round(found(noted("8", 0), None));
        for (rows, since) in [(10, "then"), (5, "later")] {
            let lost = Lost {
                batches: 1,
                rows,
                since: Some(since.to_owned()),
            };
            state.begin_again(PrepareOutput {
                lost: Some(lost),
                ..prepared(None)
            });
        }
        state.begin_again(prepared(None));
        let lost = Lost {
            batches: 2,
            rows: 15,
            since: Some("later".to_owned()),
        };
        assert_eq!((&state.lost, state.prepared_again), (&lost, 3));
        assert_eq!((&state.noted, &state.round), (&None, &None));
        assert_eq!(state.position.next_batch, 40, "a number is given once");
        assert_eq!((state.told.now(), state.position.tally.rows), (&[][..], 50));
    }

    #[test]
    fn a_second_look_covers_all_that_the_ledger_has() {
        let mut state = TableState::begin(prepared(None), true);
        state.begin_round(found(noted("20", 0), None));
        let round = state.round.as_ref().expect("it has begun");
        assert_eq!(
            (&round.looked.looked_to, &round.looked.frontier),
            (&Some(key("2")), &Some(key("9")))
        );
        assert_eq!(state.gap_stop(), Some(key("9")));
    }

    #[test]
    fn what_was_prepared_again_goes_on_with_the_look_that_it_was_given_back() {
        let mut state = TableState::begin(
            PrepareOutput {
                again: Some(found(noted("20", 0), None)),
                ..prepared(Some("20"))
            },
            false,
        );
        let looked = state.looked(false).expect("a look");
        assert_eq!(
            (&looked.looked_to, &looked.frontier),
            (&Some(key("2")), &Some(key("9")))
        );
        let kept = Looked {
            looked_to: Some(key("6")),
            ..looked
        };
        state.begin_again(PrepareOutput {
            looked: Some(kept.clone()),
            ..prepared(Some("30"))
        });
        assert_eq!(state.look_to_do(), Some(kept));
        state.end_look();
        assert_eq!(state.look_to_do(), None);
        assert_eq!(
            state.concluded().settled,
            Some(key("20")),
            "what was noted at first"
        );
        state.begin_again(prepared(Some("30")));
        assert_eq!(
            (&state.round, state.looked(true)),
            (&None, None),
            "it begins anew"
        );
        assert_eq!(state.looked(false), Some(Looked::default()));
    }

    #[test]
    fn a_key_is_settled_once_those_who_wrote_when_it_was_noted_have_ended() {
        let mut state = TableState::begin(prepared(None), true);
        let settled = |state: &TableState| state.position.settled.clone();
        state.settle(found(noted("20", 1), None));
        assert_eq!(
            (settled(&state), &state.noted),
            (Some(key("4")), &Some(noted("20", 1)))
        );
        state.settle(found(noted("30", 2), Some(noted("20", 1))));
        assert_eq!(
            (settled(&state), &state.noted),
            (Some(key("4")), &Some(noted("20", 1)))
        );
        state.settle(found(noted("40", 1), Some(noted("20", 0))));
        assert_eq!(
            (settled(&state), &state.noted),
            (Some(key("20")), &Some(noted("40", 1)))
        );
        state.settle(found(noted("50", 0), Some(noted("40", 1))));
        assert_eq!((settled(&state), &state.noted), (Some(key("50")), &None));
        assert_eq!((state.rounds, &state.round), (4, &None));
    }

    #[test]
    fn what_a_clock_that_was_set_back_unsettles_is_settled_anew() {
        let clock = |source_us| {
            Some(SourceClock {
                source_us,
                here_us: 0,
            })
        };
        let mut state = TableState::begin(prepared(None), true);
        (state.noted, state.clock) = (Some(noted("8", 1)), clock(9));
        let back = NoteWritersOutput {
            clock: clock(5),
            unsettled: Some(key("1")),
            ..found(noted("8", 1), None)
        };
        state.begin_round(back.clone());
        assert_eq!((&state.position.settled, &state.noted), (&Some(key("1")), &None));
        assert_eq!(state.clock, clock(9), "until the round is over");
        state.settle(back);
        assert_eq!(state.position.settled, Some(key("1")), "somebody writes");
        assert_eq!((&state.noted, state.clock), (&Some(noted("8", 1)), clock(5)));
    }

    #[test]
    fn preparing_in_vain_takes_longer_each_time() {
        let pauses: Vec<_> = (0..9)
            .map(|times| pause_before_preparing(times).as_secs())
            .collect();
        assert_eq!(pauses, [0, 0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause_before_preparing(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn what_continues_a_run_reads_back_as_it_was() {
        let mut state = TableState::begin(prepared(Some("100")), false);
        state.confirm(Pass::Copy, 12, carried(&[]), tally(10, 300));
        state.begin_round(found(noted("20", 1), Some(noted("10", 0))));
        let json = serde_json::to_string(&state).expect("plain data");
        assert_eq!(
            serde_json::from_str::<TableState>(&json).expect("what was written"),
            state
        );
    }
}
