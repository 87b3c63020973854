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
        let is_next = |next: &(KeyRange, State), cursor: &Option<Key>| next.1 == State::Done && next.0.low == *cursor;
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
