//! Whether attempts may begin here: the workflow's word, as the process that runs the job has heard it. A paused workflow
//! begins nothing new; what was pending before begins an attempt all the same, after its pause or its process, and waits here.
//!
//! In memory only: a new process knows nothing, and lets nothing begin, until it has asked.

use tokio::sync::watch;

/// The step of an attempt that waits here.
pub const PAUSED: &str = "paused";

/// Lets attempts begin, or holds them.
#[derive(Debug)]
pub struct Hold(watch::Sender<Word>);

/// What is known. Looks are numbered from 1, in the order in which they began.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    asked: u64,
    /// The newest look that was answered; 0 before the first.
    answered: u64,
    paused: bool,
    /// The workflow is somebody else's: nothing of it is done here.
    foreign: bool,
}

impl Default for Hold {
    fn default() -> Self {
        Self(watch::Sender::new(Word::default()))
    }
}

impl Hold {
    /// A look at the workflow begins; its answer goes to [`Hold::answer`].
    pub fn ask(&self) -> u64 {
        let mut look = 0;
        self.0.send_modify(|word| {
            word.asked += 1;
            look = word.asked;
        });
        look
    }

    /// What the workflow answered to that look: whether the operator has paused it.
    pub fn answer(&self, look: u64, paused: bool) {
        self.0
            .send_modify(|word| (word.answered, word.paused) = (look, paused));
    }

    /// The workflow turned out to be somebody else's; whether that is news.
    pub fn disown(&self) -> bool {
        self.0
            .send_if_modified(|word| !std::mem::replace(&mut word.foreign, true))
    }

    /// Whether no look was answered yet.
    pub(super) fn is_unanswered(&self) -> bool {
        self.0.borrow().answered == 0
    }

    /// Whether an attempt that begins now would be held.
    pub(super) fn holds(&self) -> bool {
        let word = self.0.borrow();
        word.answered == 0 || word.paused
    }

    /// Returns when the attempt may begin: the first of an activity by the word that is known, a later one only by one that
    /// was asked for after it came. So nobody who was told that nothing is in flight sees a row move. `false`: it never may.
    pub(super) async fn let_begin(&self, attempt: u32) -> bool {
        let mut word = self.0.subscribe();
        let newer_than = match attempt {
            0 | 1 => 0,
            _ => word.borrow_and_update().asked,
        };
        let may = |word: &Word| word.answered > newer_than && !word.paused;
        let settled = word.wait_for(|word| may(word) || word.foreign).await;
        // It ends only with the activities, of which the attempt is one.
        settled.is_ok_and(|word| !word.foreign)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn nothing_begins_before_the_workflow_was_asked_nor_while_it_is_paused() {
        let hold = Hold::default();
        let mut first = Box::pin(hold.let_begin(1));
        assert!(hold.holds() && first.as_mut().now_or_never().is_none());
        let look = hold.ask();
        assert!(first.as_mut().now_or_never().is_none(), "asked, not answered");
        hold.answer(look, true);
        assert!(hold.holds() && first.as_mut().now_or_never().is_none(), "paused");
        hold.answer(hold.ask(), false);
        assert!(!hold.holds() && first.now_or_never().is_some());
    }

    #[test]
    fn nothing_of_a_workflow_that_is_somebody_elses_begins() {
        let hold = Hold::default();
        let mut first = Box::pin(hold.let_begin(1));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(hold.disown() && !hold.disown(), "told once");
        assert_eq!(first.now_or_never(), Some(false));
        assert_eq!(hold.let_begin(2).now_or_never(), Some(false));
    }

    #[test]
    fn another_attempt_begins_by_a_word_that_is_younger_than_itself() {
        let hold = Hold::default();
        hold.answer(hold.ask(), false);
        assert!(hold.let_begin(1).now_or_never().is_some());
        let asked_before = hold.ask();
        let mut second = Box::pin(hold.let_begin(2));
        assert!(second.as_mut().now_or_never().is_none());
        hold.answer(asked_before, false);
        assert!(
            second.as_mut().now_or_never().is_none(),
            "it may be paused by now"
        );
        hold.answer(hold.ask(), false);
        assert!(second.now_or_never().is_some());
    }
}
