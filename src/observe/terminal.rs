//! The two streams of the process, shared by all who write: stdout is data, stderr is talk.
//!
//! While a progress bar stands on the terminal, whatever else is written first takes it away and puts it back after. A
//! reader of stdout who has gone is no error: what is left to say to him is dropped. Nobody else writes to either stream.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;

/// Both streams; clones share them and the bar.
#[derive(Clone)]
pub struct Terminal {
    shared: Arc<Shared>,
}

struct Shared {
    bar: Mutex<Option<ProgressBar>>,
    streams: Mutex<Streams>,
}

struct Streams {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    reader_gone: bool,
}

impl Terminal {
    /// The process's own stdout and stderr.
    pub fn standard() -> Self {
        Self::of(Box::new(io::stdout()), Box::new(io::stderr()))
    }

    /// Two streams of the caller's choice, for tests.
    pub fn of(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        let streams = Mutex::new(Streams {
            out,
            err,
            reader_gone: false,
        });
        Self {
            shared: Arc::new(Shared {
                bar: Mutex::new(None),
                streams,
            }),
        }
    }

    /// Writes a line of data to stdout, flushed. Errors are the stream's, except that a reader who has gone is none.
    pub fn print(&self, line: &str) -> io::Result<()> {
        self.write_data(&harmless(&format!("{line}\n")))
    }

    /// Writes lines of data over what stands on the terminal that stdout is. Errors as [`print`](Self::print).
    pub fn print_over(&self, lines: &str) -> io::Result<()> {
        // From the first column of the first line, each line to its end, and nothing below.
        let lines = harmless(lines).replace('\n', "\x1b[K\n");
        self.write_data(&format!("\x1b[H{lines}\x1b[K\x1b[J\n"))
    }

    fn write_data(&self, text: &str) -> io::Result<()> {
        self.beside_the_bar(|streams| {
            if streams.reader_gone {
                return Ok(());
            }
            let written = streams.out.write_all(text.as_bytes());
            match written.and_then(|()| streams.out.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    streams.reader_gone = true;
                    Ok(())
                }
                result => result,
            }
        })
    }

    /// Whether the reader of stdout has gone.
    pub fn reader_is_gone(&self) -> bool {
        lock(&self.shared.streams).reader_gone
    }

    /// Writes a line of talk to stderr; if that fails, there is nobody left to tell.
    pub fn say(&self, line: &str) {
        self.write_talk(harmless(&format!("{line}\n")).as_bytes());
    }

    /// Whether stderr is a terminal on which a bar can be drawn and redrawn.
    pub fn stderr_is_terminal() -> bool {
        io::IsTerminal::is_terminal(&io::stderr())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// The columns of the terminal behind stderr, 80 where that is not known.
    pub fn columns() -> usize {
        console::Term::stderr()
            .size_checked()
            .map_or(80, |(_, columns)| usize::from(columns))
    }

    /// The columns of the terminal behind stdout; `None` where it is none.
    pub fn columns_of_data() -> Option<usize> {
        let out = console::Term::stdout();
        let size = out.is_term().then(|| out.size_checked()).flatten();
        size.map(|(_, columns)| usize::from(columns))
    }

    pub(super) fn write_talk(&self, bytes: &[u8]) {
        self.beside_the_bar(|streams| {
            // A closed stderr must not stop a job.
            let _ = streams.err.write_all(bytes).and_then(|()| streams.err.flush());
        });
    }

    /// Takes away what a bar has left above itself when the terminal became narrower, and its lines broke into more.
    pub(super) fn clear_above_the_bar(&self, lines: usize) {
        if lines > 0 {
            self.write_talk(format!("\x1b[{lines}A\r\x1b[J").as_bytes());
        }
    }

    pub(super) fn set_bar(&self, bar: Option<ProgressBar>) {
        *lock(&self.shared.bar) = bar;
    }

    fn beside_the_bar<T>(&self, write: impl FnOnce(&mut Streams) -> T) -> T {
        let bar = lock(&self.shared.bar).clone();
        match bar {
            Some(bar) => bar.suspend(|| write(&mut lock(&self.shared.streams))),
            None => write(&mut lock(&self.shared.streams)),
        }
    }
}

/// The text without what a terminal would obey: lines and colors stay, all else of that kind goes. Whoever prints a name or
/// a value writes it out before; this is for what was forgotten.
pub(super) fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(length) = color(rest) {
            harmless.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        let is_kept = character == '\n' || !crate::job::is_obeyed(character);
        harmless.push(if is_kept { character } else { ' ' });
        rest = &rest[character.len_utf8()..];
    }
    harmless
}

/// How long the sequence is that sets a color and begins the text, if one does. None that hides what follows.
fn color(text: &str) -> Option<usize> {
    let codes = text.strip_prefix("\x1b[")?;
    let length = codes.find(|character: char| !character.is_ascii_digit() && character != ';')?;
    let is_seen = |code: &str| {
        matches!(
            code,
            "" | "0" | "1" | "2" | "3" | "4" | "31" | "32" | "33" | "34" | "35" | "36"
        )
    };
    let is_color = codes[length..].starts_with('m') && codes[..length].split(';').all(is_seen);
    is_color.then_some(length + 3)
}

/// A panic elsewhere leaves these values whole, so a poisoned lock is taken all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A stream that remembers what was written to it.
    #[derive(Clone, Default)]
    pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(lock(&self.0).clone()).expect("only text is written")
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn data_and_talk_go_to_their_own_streams() {
        let (out, err) = (Paper::default(), Paper::default());
        let terminal = Terminal::of(Box::new(out.clone()), Box::new(err.clone()));
        terminal.print("data").expect("paper takes all");
        terminal.say("talk");
        assert_eq!((out.text().as_str(), err.text().as_str()), ("data\n", "talk\n"));
    }

    #[test]
    fn what_a_terminal_would_obey_does_not_reach_it_but_for_lines_and_colors() {
        let (out, err) = (Paper::default(), Paper::default());
        let terminal = Terminal::of(Box::new(out.clone()), Box::new(err.clone()));
        let text = "\x1b[1;31merror:\x1b[0m a\x1b[2Jb\x1b[8m\rc\u{9b}5m\u{202e}d\ne\x1b[m\x1b";
        terminal.print(text).expect("paper takes all");
        terminal.say(text);
        let harmless = "\x1b[1;31merror:\x1b[0m a [2Jb [8m c 5m d\ne\x1b[m \n";
        assert_eq!((out.text().as_str(), err.text().as_str()), (harmless, harmless));
        terminal.print_over("a\x1b[2J\nb").expect("paper takes all");
        assert!(out.text().ends_with("\n\x1b[Ha [2J\x1b[K\nb\x1b[K\x1b[J\n"));
    }

    #[test]
    fn a_reader_who_has_gone_is_no_error_and_a_full_disk_is_one() {
        let gone = Terminal::of(
            Box::new(Broken(io::ErrorKind::BrokenPipe)),
            Box::new(Broken(io::ErrorKind::BrokenPipe)),
        );
        assert!(gone.print("first").is_ok() && gone.print("second").is_ok());
        assert!(gone.reader_is_gone());
        gone.say("nobody hears this");
        let full = Terminal::of(
            Box::new(Broken(io::ErrorKind::StorageFull)),
            Box::new(Paper::default()),
        );
        assert_eq!(
            full.print("data").expect_err("it is full").kind(),
            io::ErrorKind::StorageFull
        );
    }
}
