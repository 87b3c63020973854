//! What an activity that moves rows answers, with the time that its last attempt took: the attempts before it, and the time
//! between them, moved nothing, and say nothing about the speed.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// What was done, and in which time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed<T> {
    /// What was done.
    #[serde(flatten)]
    pub done: T,
    /// How long the attempt took that did it; `None` in what earlier versions have journaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

impl<T> Timed<T> {
    /// What was done since `began`.
    pub(super) fn since(began: Instant, done: T) -> Self {
        Self {
            done,
            took_ms: u64::try_from(began.elapsed().as_millis()).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Tally;

    #[test]
    fn an_answer_of_an_earlier_version_is_read_and_one_of_this_version_is_read_by_it() {
        let tally = Tally {
            rows: 7,
            checksum: u64::MAX,
            ..Tally::default()
        };
        let earlier = serde_json::to_string(&tally).expect("plain data");
        let read: Timed<Tally> = serde_json::from_str(&earlier).expect("an answer");
        assert_eq!((read.done, read.took_ms), (tally, None));
        let timed = Timed {
            done: tally,
            took_ms: Some(5),
        };
        let text = serde_json::to_string(&timed).expect("plain data");
        assert_eq!(serde_json::from_str::<Tally>(&text).expect("an answer"), tally);
        assert_eq!(
            serde_json::from_str::<Timed<Tally>>(&text).expect("an answer"),
            timed
        );
    }
}
