//! One pass over the keys up to `stop`: what may begin, what is done, where the cursor stands. No SDK, no async, no I/O.
//!
//! Events come in, actions go out; once nothing is in flight and nothing may begin, there is an outcome. At most
//! `concurrency` batches are in flight, and one more is planned ahead. Keys are never compared, only found equal: a batch
//! begins where the one before it ends, so the ranges above the cursor are in the source's order by the order in which
//! they were planned.

use std::collections::VecDeque;

use crate::table::{Key, KeyRange};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A batch was planned up to that key; `None`: no row is left.
    Planned(Option<Key>),
    /// Planning has failed.
    PlanFailed(Setback),
    /// The batch of that number is on the target.
    BatchDone(u64),
    /// The batch of that number is not, and will not be by itself.
    BatchFailed(u64, Setback),
    /// The operator has paused the job, or lets it go on.
    Paused(bool),
    /// So many batches may be in flight now.
    Concurrency(u32),
    /// The history has grown enough: the job is to go on in a new run.
    RenewalSuggested,
    /// The operator has canceled the job.
    Canceled,
}

/// Why something that was begun has brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setback {
    /// No attempt can mend it: the job ends.
    ForGood,
    /// Preparing the table again may mend it.
    PrepareAgain,
    /// It was told to end.
    Canceled,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Find the key that ends the next batch.
    Plan {
        /// The key that ends the batch before.
        low: Option<Key>,
        /// The batch ends here at the latest.
        stop: Key,
    },
    /// Begin a batch.
    Begin {
        /// Its number.
        number: u64,
        /// Its rows.
        range: KeyRange,
    },
    /// Tell everything that is in flight to end.
    CancelInFlight,
}

/// How the pass ended. Nothing is in flight then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it is done.
    Done,
    /// Something failed for good.
    Failed,
    /// The job was canceled.
    Canceled,
    /// The job is to go on in a new run.
    Renew,
    /// The table is to be prepared again.
    PrepareAgain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Planned,
    InFlight(u64),
    Done,
}

/// A pass that goes on.
#[derive(Debug)]
pub(super) struct Scheduler {
    /// Everything up to here is done.
    cursor: Option<Key>,
    /// What lies between the cursor and `low`, without a gap: at most one range is planned and `concurrency` are in
    /// flight, and neighbours that are done are one.
    ranges: VecDeque<(KeyRange, State)>,
    /// Where planning has come to.
    low: Option<Key>,
    /// What was done before the pass began, above `low`.
    ahead: VecDeque<KeyRange>,
    stop: Key,
    /// Planning has come to the stop, or there was no row left before it.
    at_stop: bool,
    planning: bool,
    next_number: u64,
    concurrency: u32,
    paused: bool,
    renewing: bool,
    canceled: bool,
    failed: bool,
    prepare_again: bool,
}

impl Scheduler {
    /// A pass over the keys from `cursor` to `stop`, past the ranges of `done`, which are in the source's order.
    pub(super) fn new(
        cursor: Option<Key>,
        stop: Key,
        done: Vec<KeyRange>,
        next_number: u64,
        concurrency: u32,
    ) -> Self {
        let mut made = Self {
            low: cursor.clone(),
            cursor,
            ranges: VecDeque::new(),
            ahead: done.into(),
            stop,
            at_stop: false,
            planning: false,
            next_number,
            concurrency,
            paused: false,
            renewing: false,
            canceled: false,
            failed: false,
            prepare_again: false,
        };
        made.jump();
        made
    }

    /// Takes note of what happened, and says what is to be done now.
    pub(super) fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Planned(high) => self.planned(high),
            Event::PlanFailed(setback) => {
                self.planning = false;
                self.set_back(setback, &mut actions);
            }
            Event::BatchDone(number) => self.done(number),
            Event::BatchFailed(number, setback) => {
                self.ranges.retain(|(_, state)| *state != State::InFlight(number));
                self.set_back(setback, &mut actions);
            }
            Event::Paused(paused) => self.paused = paused,
            Event::Concurrency(concurrency) => self.concurrency = concurrency,
            Event::RenewalSuggested => self.renewing = true,
            Event::Canceled => self.canceled = true,
        }
        self.begin(&mut actions);
        actions
    }

    /// How the pass ended, once it has.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        if self.planning || self.in_flight() > 0 {
            return None;
        }
        let is_done = self.is_exhausted() && self.ranges.is_empty();
        [
            (self.failed, Outcome::Failed),
            (self.canceled, Outcome::Canceled),
            (self.prepare_again, Outcome::PrepareAgain),
            (is_done, Outcome::Done),
            (self.renewing, Outcome::Renew),
        ]
        .into_iter()
        .find_map(|(holds, outcome)| holds.then_some(outcome))
    }

    /// Everything up to this key is done.
    pub(super) fn cursor(&self) -> Option<&Key> {
        self.cursor.as_ref()
    }

    /// What is done above the cursor, in the source's order.
    pub(super) fn beyond(&self) -> Vec<KeyRange> {
        let done = self.ranges.iter().filter(|(_, state)| *state == State::Done);
        let mut beyond: Vec<KeyRange> = Vec::new();
        for range in done.map(|(range, _)| range).chain(&self.ahead) {
            match beyond.last_mut() {
                Some(last) if range.low.as_ref() == Some(&last.high) => last.high = range.high.clone(),
                _ => beyond.push(range.clone()),
            }
        }
        beyond
    }

    /// The number that the next batch takes.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Batches that are in flight.
    pub(super) fn in_flight(&self) -> u32 {
        let in_flight = self
            .ranges
            .iter()
            .filter(|(_, state)| matches!(state, State::InFlight(_)));
        u32::try_from(in_flight.count()).unwrap_or(u32::MAX)
    }

    /// Begins what may begin: the batch that is planned, and the planning of one more.
    fn begin(&mut self, actions: &mut Vec<Action>) {
        if self.paused || self.renewing || self.canceled || self.failed || self.prepare_again {
            return;
        }
        let has_room = self.in_flight() < self.concurrency.max(1);
        let mut planned = self.ranges.iter_mut().find(|(_, state)| *state == State::Planned);
        if let Some((range, state)) = planned.take_if(|_| has_room) {
            *state = State::InFlight(self.next_number);
            actions.push(Action::Begin {
                number: self.next_number,
                range: range.clone(),
            });
            self.next_number += 1;
        }
        let is_one_ahead = planned.is_some();
        if !is_one_ahead && !self.planning && !self.is_exhausted() {
            self.planning = true;
            // A batch ends at the latest where the next range that is done begins.
            let next_done = self.ahead.front().and_then(|range| range.low.clone());
            actions.push(Action::Plan {
                low: self.low.clone(),
                stop: next_done.unwrap_or_else(|| self.stop.clone()),
            });
        }
    }

    fn planned(&mut self, high: Option<Key>) {
        self.planning = false;
        match high {
            Some(high) => {
                let low = self.low.replace(high.clone());
                self.ranges.push_back((KeyRange { low, high }, State::Planned));
                self.jump();
            }
            // Where a range that is done begins, planning stops: it can only have come past it where the source's order
            // is not what it was. Then nobody knows what lies between.
            None if !self.ahead.is_empty() => self.failed = true,
            None => self.at_stop = true,
        }
    }

    fn done(&mut self, number: u64) {
        let done = self
            .ranges
            .iter_mut()
            .find(|(_, state)| *state == State::InFlight(number));
        if let Some((_, state)) = done {
            *state = State::Done;
        }
        self.advance();
    }

    fn set_back(&mut self, setback: Setback, actions: &mut Vec<Action>) {
        // What a canceled job's batches say on their way out does not make it a failed one.
        if self.canceled || self.failed {
            return;
        }
        match setback {
            Setback::PrepareAgain => self.prepare_again = true,
            // Nobody has told it to end: what it was to do is not done.
            Setback::ForGood | Setback::Canceled => {
                self.failed = true;
                actions.push(Action::CancelInFlight);
            }
        }
    }

    /// Moves planning past what is done already.
    fn jump(&mut self) {
        self.at_stop |= self.low.as_ref() == Some(&self.stop);
        while self.ahead.front().is_some_and(|range| range.low == self.low)
            && let Some(range) = self.ahead.pop_front()
        {
            self.low = Some(range.high.clone());
            self.at_stop |= range.high == self.stop;
            self.ranges.push_back((range, State::Done));
        }
        self.advance();
    }

    /// Moves the cursor over everything that is done without a gap, and makes one of neighbours above it.
    fn advance(&mut self) {
        let is_next =
            |next: &(KeyRange, State), cursor: &Option<Key>| next.1 == State::Done && next.0.low == *cursor;
        while self
            .ranges
            .front()
            .is_some_and(|next| is_next(next, &self.cursor))
            && let Some((range, _)) = self.ranges.pop_front()
        {
            self.cursor = Some(range.high);
        }
        let mut joined: VecDeque<(KeyRange, State)> = VecDeque::new();
        for (range, state) in self.ranges.drain(..) {
            match joined.back_mut() {
                Some((last, State::Done))
                    if state == State::Done && range.low.as_ref() == Some(&last.high) =>
                {
                    last.high = range.high;
                }
                _ => joined.push_back((range, state)),
            }
        }
        self.ranges = joined;
    }

    /// Whether no batch is to be planned any more. What is done ahead is met first: no gap below it may stay.
    fn is_exhausted(&self) -> bool {
        self.at_stop && self.ahead.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::tests::Random;

    fn key(number: u64) -> Key {
        Key(vec![number.to_string()])
    }

    /// 0 stands for the start.
    fn range(low: u64, high: u64) -> KeyRange {
        KeyRange {
            low: (low > 0).then(|| key(low)),
            high: key(high),
        }
    }

    fn plan(low: u64, stop: u64) -> Action {
        Action::Plan {
            low: (low > 0).then(|| key(low)),
            stop: key(stop),
        }
    }

    fn begin(number: u64, low: u64, high: u64) -> Action {
        Action::Begin {
            number,
            range: range(low, high),
        }
    }

    fn planned(high: u64) -> Event {
        Event::Planned(Some(key(high)))
    }

    /// A pass from the start to 100, its first batch number 7.
    fn pass(done: &[(u64, u64)], concurrency: u32) -> Scheduler {
        let done = done.iter().map(|(low, high)| range(*low, *high)).collect();
        Scheduler::new(None, key(100), done, 7, concurrency)
    }

    /// A pass with so many batches of ten keys in flight, numbers from 7, and one planned if `ahead`, else being planned.
    fn in_flight(batches: u64, ahead: bool) -> Scheduler {
        let mut pass = pass(&[], u32::try_from(batches).expect("a few"));
        pass.on(Event::Paused(false));
        for number in 1..=batches + u64::from(ahead) {
            pass.on(planned(number * 10));
        }
        assert_eq!(pass.in_flight(), u32::try_from(batches).expect("a few"));
        assert_eq!(pass.planning, !ahead);
        pass
    }

    fn cursor(pass: &Scheduler) -> Option<Key> {
        pass.cursor().cloned()
    }

    #[test]
    fn batches_are_planned_one_ahead_and_begun_in_order_up_to_the_concurrency() {
        let mut pass = pass(&[], 2);
        assert_eq!(pass.on(Event::Paused(false)), [plan(0, 100)]);
        assert_eq!(pass.on(planned(10)), [begin(7, 0, 10), plan(10, 100)]);
        assert_eq!(pass.on(planned(20)), [begin(8, 10, 20), plan(20, 100)]);
        assert_eq!(pass.on(planned(30)), [], "two are in flight, one is ahead");
        assert_eq!(pass.on(Event::BatchDone(7)), [begin(9, 20, 30), plan(30, 100)]);
        assert_eq!((cursor(&pass), pass.next_number()), (Some(key(10)), 10));
        assert_eq!(pass.on(planned(100)), []);
        assert_eq!(
            pass.on(Event::BatchDone(8)),
            [begin(10, 30, 100)],
            "nothing to plan behind the stop"
        );
        assert_eq!(pass.on(Event::BatchDone(9)), []);
        assert_eq!(pass.outcome(), None);
        assert_eq!(pass.on(Event::BatchDone(10)), []);
        assert_eq!(
            (pass.outcome(), cursor(&pass)),
            (Some(Outcome::Done), Some(key(100)))
        );
    }

    #[test]
    fn a_source_that_ends_before_the_stop_ends_the_pass() {
        let mut pass = in_flight(1, false);
        assert_eq!(pass.on(Event::Planned(None)), []);
        assert_eq!(pass.outcome(), None);
        pass.on(Event::BatchDone(7));
        assert_eq!(
            (pass.outcome(), cursor(&pass)),
            (Some(Outcome::Done), Some(key(10)))
        );
    }

    #[test]
    fn a_pass_that_begins_at_its_stop_has_nothing_to_do() {
        let mut pass = Scheduler::new(Some(key(100)), key(100), Vec::new(), 1, 4);
        assert_eq!(pass.outcome(), Some(Outcome::Done));
        assert_eq!(pass.on(Event::Paused(false)), []);
        assert_eq!(cursor(&pass), Some(key(100)));
    }

    #[test]
    fn the_cursor_moves_only_over_what_has_no_gap() {
        let mut pass = in_flight(4, false);
        pass.on(Event::BatchDone(10));
        pass.on(Event::BatchDone(8));
        assert_eq!(
            (cursor(&pass), pass.beyond()),
            (None, vec![range(10, 20), range(30, 40)])
        );
        pass.on(Event::BatchDone(9));
        assert_eq!((cursor(&pass), pass.beyond()), (None, vec![range(10, 40)]));
        pass.on(Event::BatchDone(7));
        assert_eq!((cursor(&pass), pass.beyond()), (Some(key(40)), vec![]));
    }

    #[test]
    fn what_waits_for_a_slow_batch_stays_small() {
        let mut pass = pass(&[], 2);
        pass.on(Event::Paused(false));
        pass.on(planned(1));
        for number in 2..1000 {
            pass.stop = key(100_000);
            pass.on(planned(number));
            pass.on(Event::BatchDone(6 + number));
        }
        assert!(pass.ranges.len() <= 4, "{}", pass.ranges.len());
        assert_eq!(pass.beyond(), [range(1, 999)]);
    }

    #[test]
    fn what_is_done_is_jumped_over_wherever_it_lies() {
        let mut pass = pass(&[(0, 10), (10, 15), (40, 50), (90, 100)], 1);
        assert_eq!(
            (cursor(&pass), pass.beyond()),
            (Some(key(15)), vec![range(40, 50), range(90, 100)])
        );
        assert_eq!(
            pass.on(Event::Paused(false)),
            [plan(15, 40)],
            "a batch ends where a done range begins"
        );
        assert_eq!(
            pass.on(planned(40)),
            [begin(7, 15, 40), plan(50, 90)],
            "the next begins behind it"
        );
        assert_eq!(pass.on(planned(90)), []);
        assert_eq!(
            (cursor(&pass), pass.beyond()),
            (Some(key(15)), vec![range(40, 50), range(90, 100)])
        );
        assert_eq!(pass.on(Event::BatchDone(7)), [begin(8, 50, 90)]);
        assert_eq!(
            (cursor(&pass), pass.beyond()),
            (Some(key(50)), vec![range(90, 100)])
        );
        pass.on(Event::BatchDone(8));
        assert_eq!(
            (cursor(&pass), pass.outcome()),
            (Some(key(100)), Some(Outcome::Done))
        );
    }

    #[test]
    fn gaps_before_what_is_done_are_closed_even_beyond_the_stop() {
        // The source's highest row was deleted after the ledger had its range.
        let mut pass = pass(&[(110, 120)], 1);
        assert_eq!(pass.on(Event::Paused(false)), [plan(0, 110)]);
        assert_eq!(pass.on(planned(110)), [begin(7, 0, 110), plan(120, 100)]);
        assert_eq!(pass.on(Event::Planned(None)), []);
        pass.on(Event::BatchDone(7));
        assert_eq!(
            (cursor(&pass), pass.outcome()),
            (Some(key(120)), Some(Outcome::Done))
        );
    }

    #[test]
    fn a_range_that_reaches_over_the_stop_ends_the_pass() {
        let mut pass = pass(&[(0, 100), (100, 120)], 1);
        assert_eq!(pass.on(Event::Paused(false)), []);
        assert_eq!(
            (cursor(&pass), pass.outcome()),
            (Some(key(120)), Some(Outcome::Done))
        );
    }

    #[test]
    fn a_source_that_orders_its_keys_otherwise_than_the_ledger_fails() {
        let mut pass = pass(&[(40, 50)], 1);
        pass.on(Event::Paused(false));
        assert_eq!(pass.on(Event::Planned(None)), []);
        assert_eq!(pass.outcome(), Some(Outcome::Failed));
    }

    #[test]
    fn after_a_failure_the_others_are_told_to_end() {
        let mut pass = in_flight(3, true);
        assert_eq!(
            pass.on(Event::BatchFailed(8, Setback::ForGood)),
            [Action::CancelInFlight]
        );
        assert_eq!(
            pass.on(Event::BatchDone(7)),
            [],
            "one may be done all the same; nothing begins"
        );
        assert_eq!(pass.outcome(), None);
        assert_eq!(
            pass.on(Event::BatchFailed(9, Setback::Canceled)),
            [],
            "they are told once"
        );
        assert_eq!(
            (pass.outcome(), cursor(&pass)),
            (Some(Outcome::Failed), Some(key(10)))
        );
    }

    #[test]
    fn planning_that_fails_ends_the_pass_as_well() {
        let mut pass = in_flight(1, false);
        assert_eq!(
            pass.on(Event::PlanFailed(Setback::ForGood)),
            [Action::CancelInFlight]
        );
        assert_eq!(pass.outcome(), None);
        pass.on(Event::BatchFailed(7, Setback::Canceled));
        assert_eq!(pass.outcome(), Some(Outcome::Failed));
    }

    #[test]
    fn a_batch_that_ended_though_nobody_told_it_to_has_failed() {
        let mut pass = in_flight(2, false);
        assert_eq!(
            pass.on(Event::BatchFailed(7, Setback::Canceled)),
            [Action::CancelInFlight]
        );
        pass.on(Event::BatchDone(8));
        pass.on(Event::Planned(None));
        assert_eq!(
            (pass.outcome(), cursor(&pass)),
            (Some(Outcome::Failed), None),
            "its range is not done"
        );
    }

    #[test]
    fn a_canceled_job_lets_its_batches_end() {
        let mut pass = in_flight(2, false);
        assert_eq!(pass.on(Event::Canceled), []);
        assert_eq!(pass.on(planned(30)), []);
        assert_eq!(pass.on(Event::BatchDone(7)), []);
        assert_eq!(pass.outcome(), None);
        assert_eq!(
            pass.on(Event::BatchFailed(8, Setback::ForGood)),
            [],
            "its last words do not matter"
        );
        assert_eq!(
            (pass.outcome(), cursor(&pass)),
            (Some(Outcome::Canceled), Some(key(10)))
        );
    }

    #[test]
    fn a_job_that_failed_stays_failed_when_it_is_canceled() {
        let mut pass = in_flight(1, true);
        pass.on(Event::BatchFailed(7, Setback::ForGood));
        pass.on(Event::Canceled);
        assert_eq!(pass.outcome(), Some(Outcome::Failed));
    }

    #[test]
    fn before_the_table_is_prepared_again_what_is_in_flight_ends_by_itself() {
        let mut pass = in_flight(3, true);
        assert_eq!(pass.on(Event::BatchFailed(7, Setback::PrepareAgain)), []);
        assert_eq!(pass.on(Event::BatchDone(9)), []);
        assert_eq!(pass.outcome(), None);
        assert_eq!(pass.on(Event::BatchFailed(8, Setback::PrepareAgain)), []);
        assert_eq!(pass.outcome(), Some(Outcome::PrepareAgain));
        assert_eq!(
            (cursor(&pass), pass.beyond()),
            (None, vec![range(20, 30)]),
            "what was told is known"
        );
        let mut failing = in_flight(2, true);
        failing.on(Event::BatchFailed(7, Setback::PrepareAgain));
        assert_eq!(
            failing.on(Event::BatchFailed(8, Setback::ForGood)),
            [Action::CancelInFlight]
        );
        assert_eq!(failing.outcome(), Some(Outcome::Failed));
        let mut planning = pass_that_plans();
        planning.on(Event::PlanFailed(Setback::PrepareAgain));
        assert_eq!(planning.outcome(), Some(Outcome::PrepareAgain));
    }

    fn pass_that_plans() -> Scheduler {
        let mut pass = pass(&[], 2);
        assert_eq!(pass.on(Event::Paused(false)), [plan(0, 100)]);
        pass
    }

    #[test]
    fn a_paused_job_begins_nothing_and_has_no_outcome() {
        let mut pass = pass(&[], 2);
        assert_eq!(pass.on(Event::Paused(true)), []);
        assert_eq!(pass.outcome(), None);
        let mut pass = in_flight(1, false);
        pass.on(Event::Paused(true));
        assert_eq!(pass.on(planned(20)), []);
        assert_eq!(pass.on(Event::BatchDone(7)), []);
        assert_eq!(pass.outcome(), None, "it waits");
        assert_eq!(pass.on(Event::Paused(false)), [begin(8, 10, 20), plan(20, 100)]);
    }

    #[test]
    fn a_paused_job_can_be_canceled_and_can_be_done() {
        let mut canceled = pass(&[], 2);
        canceled.on(Event::Paused(true));
        canceled.on(Event::Canceled);
        assert_eq!(canceled.outcome(), Some(Outcome::Canceled));
        let mut done = in_flight(1, false);
        done.on(Event::Paused(true));
        done.on(Event::Planned(None));
        done.on(Event::BatchDone(7));
        assert_eq!(done.outcome(), Some(Outcome::Done));
    }

    #[test]
    fn a_run_is_renewed_when_nothing_is_in_flight_whatever_it_was_doing() {
        let mut idle = pass(&[], 2);
        assert_eq!(idle.on(Event::RenewalSuggested), []);
        assert_eq!(idle.outcome(), Some(Outcome::Renew));

        let mut planning = pass_that_plans();
        planning.on(Event::RenewalSuggested);
        assert_eq!(planning.outcome(), None);
        assert_eq!(planning.on(planned(10)), []);
        assert_eq!(
            (planning.outcome(), cursor(&planning), planning.beyond()),
            (Some(Outcome::Renew), None, vec![])
        );

        let mut ahead = in_flight(1, true);
        ahead.on(Event::RenewalSuggested);
        assert_eq!(ahead.outcome(), None);
        assert_eq!(
            ahead.on(Event::BatchDone(7)),
            [],
            "what is planned is planned again"
        );
        assert_eq!(
            (ahead.outcome(), cursor(&ahead)),
            (Some(Outcome::Renew), Some(key(10)))
        );

        let mut early = in_flight(2, true);
        early.on(Event::RenewalSuggested);
        early.on(Event::BatchDone(8));
        assert_eq!((early.outcome(), early.beyond()), (None, vec![range(10, 20)]));
        early.on(Event::BatchDone(7));
        assert_eq!(
            (early.outcome(), cursor(&early)),
            (Some(Outcome::Renew), Some(key(20)))
        );

        let mut paused = in_flight(1, true);
        paused.on(Event::Paused(true));
        paused.on(Event::BatchDone(7));
        paused.on(Event::RenewalSuggested);
        assert_eq!(paused.outcome(), Some(Outcome::Renew));
    }

    #[test]
    fn what_is_more_urgent_than_a_new_run_comes_first() {
        for (event, outcome) in [
            (Event::BatchFailed(7, Setback::ForGood), Outcome::Failed),
            (
                Event::BatchFailed(7, Setback::PrepareAgain),
                Outcome::PrepareAgain,
            ),
        ] {
            let mut pass = in_flight(1, true);
            pass.on(Event::RenewalSuggested);
            pass.on(event);
            assert_eq!(pass.outcome(), Some(outcome));
        }
        let mut done = Scheduler::new(Some(key(100)), key(100), Vec::new(), 1, 4);
        done.on(Event::RenewalSuggested);
        assert_eq!(done.outcome(), Some(Outcome::Done));
        let mut canceled = pass(&[], 1);
        canceled.on(Event::RenewalSuggested);
        canceled.on(Event::Canceled);
        assert_eq!(canceled.outcome(), Some(Outcome::Canceled));
    }

    #[test]
    fn concurrency_can_be_raised_and_lowered_below_what_is_in_flight() {
        let mut pass = in_flight(3, true);
        assert_eq!(pass.on(Event::Concurrency(1)), []);
        assert_eq!(pass.on(Event::BatchDone(7)), []);
        assert_eq!(pass.on(Event::BatchDone(8)), []);
        assert_eq!(pass.on(Event::BatchDone(9)), [begin(10, 30, 40), plan(40, 100)]);
        assert_eq!(pass.on(planned(50)), []);
        assert_eq!(pass.on(Event::Concurrency(2)), [begin(11, 40, 50), plan(50, 100)]);
    }

    /// Keys are numbers here, which can be compared: what the source would have said, and what must hold.
    struct Model {
        random: Random,
        pass: Scheduler,
        stop: u64,
        /// By key, whether its row is on the target.
        copied: Vec<bool>,
        batches: Vec<(u64, u64, u64)>,
        planning: Option<(u64, u64)>,
        concurrency: u32,
        quiet: bool,
        paused: bool,
        ended_early: bool,
    }

    impl Model {
        fn new(mut random: Random) -> Self {
            let end = random.within(1..60);
            let stop = random.within(1..end + 1);
            let mut done: Vec<KeyRange> = Vec::new();
            let mut copied = vec![false; 100];
            let mut low = random.within(0..10);
            while random.within(0..4) > 0 && low < end {
                let high = low + random.within(1..8);
                copied[usize::try_from(low).expect("small") + 1..=usize::try_from(high).expect("small")]
                    .fill(true);
                done.push(range(low, high));
                low = high + random.within(0..2) * random.within(1..8);
            }
            let concurrency = u32::try_from(random.within(1..6)).expect("small");
            Self {
                pass: Scheduler::new(None, key(stop), done, 1, concurrency),
                random,
                stop,
                copied,
                batches: Vec::new(),
                planning: None,
                concurrency,
                quiet: false,
                paused: false,
                ended_early: false,
            }
        }

        fn number(key: Option<&Key>) -> u64 {
            key.map_or(0, |key| key.0[0].parse().expect("a number"))
        }

        fn tell(&mut self, event: Event) {
            for action in self.pass.on(event) {
                assert!(!self.quiet && !self.paused || action == Action::CancelInFlight);
                match action {
                    Action::Plan { low, stop } => {
                        let asked = (Self::number(low.as_ref()), Self::number(Some(&stop)));
                        assert_eq!(self.planning.replace(asked), None);
                    }
                    Action::Begin { number, range } => {
                        let (low, high) = (Self::number(range.low.as_ref()), Self::number(Some(&range.high)));
                        for key in low + 1..=high {
                            assert!(!self.copied[usize::try_from(key).expect("small")], "{key} twice");
                            let in_flight = self.batches.iter().any(|(_, l, h)| *l < key && key <= *h);
                            assert!(!in_flight, "{key} is in flight twice");
                        }
                        self.batches.push((number, low, high));
                        assert!(self.batches.len() <= self.concurrency as usize);
                    }
                    Action::CancelInFlight => assert!(self.quiet),
                }
            }
        }

        /// What the source would say: rows are `1..=end`.
        fn answer_plan(&mut self, low: u64, stop: u64) -> Event {
            if low >= stop {
                return Event::Planned(None);
            }
            planned((low + self.random.within(1..9)).min(stop))
        }

        fn step(&mut self) {
            match self.random.within(0..40) {
                0 => {
                    self.paused = !self.paused;
                    self.tell(Event::Paused(self.paused));
                }
                1 => {
                    self.concurrency = u32::try_from(self.random.within(1..6)).expect("small");
                    // More may be in flight for a while.
                    let allowed = self.concurrency;
                    self.concurrency = allowed.max(u32::try_from(self.batches.len()).expect("small"));
                    self.tell(Event::Concurrency(allowed));
                }
                2 if self.random.within(0..8) == 0 => {
                    (self.quiet, self.ended_early) = (true, true);
                    self.tell(Event::RenewalSuggested);
                }
                3 if self.random.within(0..8) == 0 => {
                    (self.quiet, self.ended_early) = (true, true);
                    self.tell(Event::Canceled);
                }
                4 if !self.batches.is_empty() && self.random.within(0..4) == 0 => {
                    (self.quiet, self.ended_early) = (true, true);
                    let at = self.random.within(0..self.batches.len() as u64);
                    let (number, ..) = self.batches.remove(usize::try_from(at).expect("small"));
                    let setback = *self.random.pick(&[Setback::ForGood, Setback::PrepareAgain]);
                    self.tell(Event::BatchFailed(number, setback));
                }
                5..20 => {
                    if let Some((low, stop)) = self.planning.take() {
                        let event = self.answer_plan(low, stop);
                        self.tell(event);
                    }
                }
                _ => {
                    if !self.batches.is_empty() {
                        let at = self.random.within(0..self.batches.len() as u64);
                        let (number, low, high) = self.batches.remove(usize::try_from(at).expect("small"));
                        self.copied[usize::try_from(low).expect("small") + 1
                            ..=usize::try_from(high).expect("small")]
                            .fill(true);
                        self.tell(Event::BatchDone(number));
                    }
                }
            }
        }

        /// The cursor and what lies beyond it are exactly what is copied.
        fn check(&self) {
            let mut said = vec![false; self.copied.len()];
            let whole = range(0, Self::number(self.pass.cursor()));
            let beyond = self.pass.beyond();
            for part in [&whole].into_iter().chain(&beyond) {
                let (low, high) = (Self::number(part.low.as_ref()), Self::number(Some(&part.high)));
                said[usize::try_from(low).expect("small") + 1..=usize::try_from(high).expect("small")]
                    .fill(true);
            }
            assert_eq!(said, self.copied);
            assert!(
                beyond
                    .iter()
                    .all(|range| range.low.as_ref() != self.pass.cursor()),
                "the cursor is behind"
            );
            assert_eq!(self.pass.in_flight() as usize, self.batches.len());
        }
    }

    #[test]
    fn random_passes_copy_every_key_once_and_know_what_they_have() {
        let mut random = Random::seeded();
        for _ in 0..3000 {
            let mut model = Model::new(random.fork());
            model.tell(Event::Paused(false));
            let mut steps = 0;
            while model.pass.outcome().is_none() {
                model.step();
                model.check();
                steps += 1;
                assert!(steps < 100_000, "it does not end");
            }
            assert!(model.batches.is_empty() && model.planning.is_none());
            if model.pass.outcome() == Some(Outcome::Done) {
                let upto = usize::try_from(model.stop).expect("small");
                assert!(
                    model.copied[1..=upto].iter().all(|copied| *copied),
                    "a row is missing"
                );
                assert_eq!(model.pass.beyond(), []);
            } else {
                assert!(model.ended_early);
            }
        }
    }
}
