//! What an attempt says of itself with each heartbeat: which step it is at, since when, and how many rows have moved. From
//! it a status in another process knows what is waited for, and how fast rows move within a batch.
//!
//! Never a value of a row, a key or a connection: heartbeats are journaled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::postgres::{Session, Waits};

tokio::task_local! {
    /// The pulse of the attempt that this task runs.
    static PULSE: Arc<Pulse>;
}

/// What a heartbeat carries. Times are milliseconds of Unix time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Beat {
    /// The attempt that says it, from 1: a heartbeat outlives its attempt.
    pub attempt: u32,
    /// The step that it is at, in words.
    #[serde(default)]
    pub step: String,
    /// When that step began.
    #[serde(default)]
    pub since_ms: u64,
    /// Rows that this attempt has sent or read.
    #[serde(default)]
    pub rows: u64,
    /// Their wire bytes.
    #[serde(default)]
    pub bytes: u64,
    /// When the last of them moved; 0 before the first.
    #[serde(default)]
    pub moved_ms: u64,
    /// The side that it waits for without a byte, `source` or `target`; empty where there is none.
    #[serde(default)]
    pub silent: String,
}

/// A side that is waited for is silent when no byte has come or gone for so long.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// What one attempt has to say, and the sessions that it has.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Beat>, Mutex<Vec<Waits>>);

impl Pulse {
    pub(super) fn of_attempt(attempt: u32) -> Arc<Self> {
        let beat = Beat {
            attempt,
            since_ms: now_ms(),
            ..Beat::default()
        };
        Arc::new(Self(Mutex::new(beat), Mutex::default()))
    }

    /// The pulse of the attempt that runs here; `None` outside of one, in a benchmark.
    pub(super) fn of_now() -> Option<Arc<Self>> {
        PULSE.try_with(Arc::clone).ok()
    }

    /// What the next heartbeat says.
    pub(super) fn beat(&self) -> Beat {
        let sessions = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = sessions
            .iter()
            .filter_map(|waits| Some((waits.silent_for()?, waits.side())));
        let longest = waits
            .filter(|(silent, _)| *silent >= SILENT_FOR)
            .max_by_key(|(silent, _)| *silent);
        Beat {
            silent: longest.map_or(String::new(), |(_, side)| side.to_string()),
            ..self.lock().clone()
        }
    }

    /// The step that the attempt is at from now on.
    pub(super) fn step(&self, words: String) {
        let mut beat = self.lock();
        if beat.step != words {
            (beat.step, beat.since_ms) = (words, now_ms());
        }
    }

    pub(super) fn moved(&self, rows: u64, bytes: u64) {
        let mut beat = self.lock();
        beat.rows = beat.rows.saturating_add(rows);
        beat.bytes = beat.bytes.saturating_add(bytes);
        beat.moved_ms = now_ms();
    }

    /// Runs an attempt's body under this pulse.
    pub(super) async fn of<T>(self: Arc<Self>, body: impl Future<Output = T>) -> T {
        PULSE.scope(self, body).await
    }

    fn lock(&self) -> MutexGuard<'_, Beat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says which step the attempt that runs here is at.
pub(super) fn step(words: impl Into<String>) {
    let words = words.into();
    tracing::debug!("{words}");
    if let Some(pulse) = Pulse::of_now() {
        pulse.step(words);
    }
}

/// Notes that the attempt that runs here has this session of its side from now on.
pub(super) fn has(session: &Session) {
    if let Some(pulse) = Pulse::of_now() {
        let mut sessions = pulse.1.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|waits| waits.side() != session.side());
        sessions.push(session.waits());
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_beat_says_the_step_of_its_own_attempt_and_what_it_moved() {
        let (one, other) = (Pulse::of_attempt(3), Pulse::of_attempt(1));
        Arc::clone(&one)
            .of(async {
                step("copying batch 7");
                Pulse::of_now().expect("it runs under one").moved(10, 300);
            })
            .await;
        step("nobody hears this");
        let beat = one.beat();
        assert_eq!(
            (beat.attempt, beat.step.as_str(), beat.rows, beat.bytes),
            (3, "copying batch 7", 10, 300)
        );
        assert!(beat.moved_ms >= beat.since_ms && beat.since_ms > 0, "{beat:?}");
        assert_eq!((other.beat().rows, other.beat().step), (0, String::new()));
    }
}
