//! Ctrl-C, and what a service manager sends: counted from a command's first moment to its last, so that none is missed
//! between two who listen, and an end to the process soon after, whatever else it waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::exit::ExitStatus;
use super::printer::Printer;
use super::report::Report;

/// The process ends so long after the first one, in order or not. The target rolls back what it leaves open.
const END_WITHIN: Duration = Duration::from_millis(4500);
/// And so long after the second.
const STOP_WITHIN: Duration = Duration::from_millis(300);
/// So long the last word may take.
const TALK_WITHIN: Duration = Duration::from_millis(200);
/// How a command goes on that had not begun a job.
const SAME_COMMAND: &str = "interrupted; to go on, give the same command again";

/// How often the operator has asked for an end.
#[derive(Clone)]
pub struct Interrupts {
    heard: watch::Receiver<u32>,
    last_word: Arc<Mutex<String>>,
    is_attended: Arc<AtomicBool>,
}

impl Interrupts {
    /// Listens from now on: neither signal ends the process by itself any more. Needs a tokio runtime.
    pub fn listen(printer: &Printer) -> Result<Self, Report> {
        let listen = |kind| signal(kind).map_err(|error| Report::new(&error, ExitStatus::Failed));
        let mut int = listen(SignalKind::interrupt())?;
        let mut term = listen(SignalKind::terminate())?;
        let (count, heard) = watch::channel(0);
        let last_word = Arc::new(Mutex::new(SAME_COMMAND.to_owned()));
        let (printer, word) = (printer.clone(), Arc::clone(&last_word));
        tokio::spawn(async move {
            loop {
                tokio::select! { _ = int.recv() => (), _ = term.recv() => () }
                count.send_modify(|count| *count += 1);
                let within = match *count.borrow() {
                    1 => END_WITHIN,
                    _ => STOP_WITHIN,
                };
                end_within(within, printer.clone(), Arc::clone(&word));
            }
        });
        Ok(Self {
            heard,
            last_word,
            is_attended: Arc::default(),
        })
    }

    /// From now on somebody listens who knows better what to do. `last_word` says how to go on, should he not come to it.
    pub fn attend(&self, last_word: String) {
        *self.last_word.lock().unwrap_or_else(PoisonError::into_inner) = last_word;
        self.is_attended.store(true, Ordering::SeqCst);
    }

    /// Waits until it was asked for so many times. Cancel-safe.
    pub async fn heard(&self, times: u32) {
        let mut heard = self.heard.clone();
        if heard.wait_for(|count| *count >= times).await.is_err() {
            // The one who counts ends with the process.
            std::future::pending().await
        }
    }

    /// Waits for the first that nobody attends to, and gives the words to end with. Cancel-safe.
    pub async fn unattended(&self) -> &'static str {
        self.heard(1).await;
        if self.is_attended.load(Ordering::SeqCst) {
            std::future::pending().await
        }
        SAME_COMMAND
    }
}

/// Ends the process from a thread of its own: the runtime's may all wait for something.
fn end_within(time: Duration, printer: Printer, last_word: Arc<Mutex<String>>) {
    let end = move || {
        std::thread::sleep(time);
        // Whoever reads what we say may be what is waited for.
        let talk = move || printer.talk(&last_word.lock().unwrap_or_else(PoisonError::into_inner));
        if let Ok(talking) = std::thread::Builder::new().spawn(talk) {
            let until = std::time::Instant::now() + TALK_WITHIN;
            while !talking.is_finished() && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        std::process::exit(ExitStatus::Interrupted.code().into())
    };
    if std::thread::Builder::new().spawn(end).is_err() {
        std::process::exit(ExitStatus::Interrupted.code().into());
    }
}
