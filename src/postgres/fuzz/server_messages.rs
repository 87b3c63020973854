//! What a server sends: which of its messages reach the driver, in whatever pieces they come, and what is said of its errors.

use super::input::{Input, kind};
use super::{PLANTED, assert_fit_to_show};
use crate::postgres::error::{Error, Side};
use crate::postgres::frames::{AsItIs, Frames, REFUSED_SQLSTATE, Watch};
use crate::postgres::require_auth::Exchange;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// A message of a server that is not trusted is no longer.
const UNTRUSTED_BYTES: usize = 64 << 10;

/// The input's first line says what the rest is: a `stream` of bytes, a list of `messages`, or an `error` and who raised it.
///
/// # Panics
/// Where the pieces make a difference, a message passes that must not, or a row's value is shown.
pub fn server_messages(input: &[u8]) {
    let (kind, rest) = kind(input);
    let mut input = Input::new(rest);
    match kind {
        b"error" => check_error(&mut input),
        b"messages" => {
            let (trusted, cuts) = (input.below(2) == 1, input.byte());
            check_stream(&messages(&mut input), trusted, cuts);
        }
        _ => {
            let (trusted, cuts) = (input.below(2) == 1, input.byte());
            check_stream(input.rest(), trusted, cuts);
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(4 + body.len()).expect("a target's input is short");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// A log-in, perhaps, and messages that are well made, some of them long.
fn messages(input: &mut Input<'_>) -> Vec<u8> {
    let mut sent = Vec::new();
    if input.below(4) > 0 {
        sent.extend(message(b'R', &[0; 4]));
        sent.extend(message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]));
        sent.extend(message(b'Z', b"I"));
    }
    while !input.is_empty() {
        let tag = input.pick(b"TDdCZNSAERKIcHGnstv1");
        let body = input.text().into_bytes();
        sent.extend(message(tag, &body.repeat([1, 1, 1, 300][input.below(4)])));
    }
    sent
}

/// What came of a stream.
#[derive(Debug, PartialEq)]
struct Read {
    seen: Vec<u8>,
    refusal: Option<String>,
    backend_pid: i32,
}

fn check_stream(sent: &[u8], trusted: bool, cuts: u8) {
    let whole = read(sent, trusted, &mut Pieces::whole(sent));
    for pieces in [Pieces::of(sent, 1), Pieces::random(sent, cuts)] {
        let mut pieces = pieces;
        assert_eq!(read(sent, trusted, &mut pieces), whole, "in pieces");
    }
    check_passed(sent, trusted, &whole);
    drive(sent);
}

/// Reads all of it through the frames; never more of it is kept than a message of the log-in, or an error of ours.
fn read(sent: &[u8], trusted: bool, pieces: &mut Pieces<'_>) -> Read {
    let watch = Arc::new(Watch::default());
    if trusted {
        watch.trust();
    }
    let mut frames = Frames::new(pieces, Arc::clone(&watch), Exchange::new(Default::default()));
    let mut seen = Vec::new();
    let mut buffer = [0; 700];
    loop {
        let mut part = ReadBuf::new(&mut buffer);
        let polled = Pin::new(&mut frames).poll_read(&mut Context::from_waker(Waker::noop()), &mut part);
        assert!(
            matches!(polled, Poll::Ready(Ok(()))),
            "the pieces are always there"
        );
        assert!(
            frames.kept_bytes() <= 4 * UNTRUSTED_BYTES,
            "{} bytes are kept",
            frames.kept_bytes()
        );
        if part.filled().is_empty() {
            break;
        }
        seen.extend_from_slice(part.filled());
        assert!(seen.len() <= sent.len() + 1024);
    }
    Read {
        seen,
        refusal: watch.refusal().map(|refusal| refusal.words),
        backend_pid: watch.backend_pid(),
    }
}

/// The driver sees the messages that were sent, in order, without those that nobody asked for; up to a refusal, if there is one.
fn check_passed(sent: &[u8], trusted: bool, read: &Read) {
    let own = read.refusal.as_ref().map(|words| {
        assert_fit_to_show(words);
        let fields = format!("SFATAL\0VFATAL\0C{REFUSED_SQLSTATE}\0M{words}\0\0");
        message(b'E', fields.as_bytes())
    });
    let passed = match &own {
        Some(own) => read
            .seen
            .strip_suffix(&own[..])
            .expect("the refusal is told last"),
        None => &read.seen,
    };
    let (mut rest, mut wanted, mut ends, mut logged_in) = (sent, Vec::new(), vec![0], false);
    while let Some((header, _)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let (message, after) = rest.split_at(rest.len().min(1 + length.max(4)));
        let is_whole = message.len() == 1 + length;
        // One of the log-in passes whole or not at all, a later one as it comes.
        if (logged_in && !b"NSA".contains(&header[0])) || (!logged_in && is_whole) {
            let is_in_bounds = length >= 4 && (length <= UNTRUSTED_BYTES || (trusted && logged_in));
            assert!(is_in_bounds || own.is_some(), "{length} bytes have passed");
            wanted.extend_from_slice(message);
            ends.push(wanted.len());
        }
        rest = after;
        logged_in |= header[0] == b'Z' && is_whole;
    }
    match own {
        None => assert!(wanted == passed, "other messages have passed"),
        Some(_) => assert!(
            wanted.starts_with(passed) && ends.contains(&passed.len()),
            "other messages have passed before the refusal"
        ),
    }
}

/// The driver behind the frames comes to an end, whatever is sent, and without a panic; its errors are fit to be shown.
fn drive(sent: &[u8]) {
    let (frames, config) = (frames(sent), config());
    let asked = async {
        let (client, connection) = config.connect_raw(frames, AsItIs).await?;
        let (ended, answer) = tokio::join!(connection, async move {
            client.simple_query("SELECT 1").await.map(drop)
        });
        answer.and(ended)
    };
    if let Err(error) = ready(asked) {
        check_shown(&Error::query(Side::Source, "cannot ask", &error));
        check_shown(&Error::rows(Side::Source, "cannot ask", &error));
    }
}

fn frames(sent: &[u8]) -> Frames<Pieces<'_>> {
    Frames::new(
        Pieces::whole(sent),
        Arc::new(Watch::default()),
        Exchange::new(Default::default()),
    )
}

/// As a session has it: the stream is what it has to be.
fn config() -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.user("u").password("p").dbname("d");
    config
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    config
}

fn check_shown(error: &Error) {
    assert_fit_to_show(&error.to_string());
    assert_fit_to_show(error.hint());
    std::error::Error::source(error)
        .map(ToString::to_string)
        .iter()
        .for_each(|words| assert_fit_to_show(words));
}

/// Waits for what never has to wait.
fn ready<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    for _ in 0..100_000 {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
    panic!("the driver waits though all has come");
}

/// Who raises an error with a row's value in it, and so what of the error is theirs to choose.
#[derive(Clone, Copy)]
enum Author {
    /// A function of a user's, in a procedural language: all but the file and the context.
    Function,
    /// A type's input or output function, which quotes the value: not even the code, but the message.
    Value,
    /// What a value names: `regclass`, in a file that reports names, for the row that COPY has come to.
    Named,
    /// A function that a row's trigger or check runs, in SQL: the message is the server's, and may quote what it was given.
    Within,
}

/// An error with [`PLANTED`] wherever its author could put a row's value: nothing of it is shown.
fn check_error(input: &mut Input<'_>) {
    let author = input.pick(&[Author::Function, Author::Value, Author::Named, Author::Within]);
    let [before, after] = std::array::from_fn(|_| input.text().replace('\0', ""));
    let planted = format!("{before}{PLANTED}{after}");
    let [file, code, context] = author.writes(input, &planted);
    let is_theirs = matches!(author, Author::Function);
    let sent = error_message(&file, &code, &context, &planted, is_theirs);
    let Err(error) = ready(config().connect_raw(frames(&sent), AsItIs)) else {
        panic!("an error is no log-in");
    };
    assert!(error.as_db_error().is_some(), "{error:?}");
    let shown = Error::rows(Side::Target, "cannot copy", &error);
    assert!(!shown.chain().contains(PLANTED), "{}", shown.chain());
    assert!(!shown.hint().contains(PLANTED), "{}", shown.hint());
    check_shown(&shown);
    let shown = Error::query(Side::Target, "cannot ask", &error);
    let chain = shown.chain();
    assert!(!is_theirs || !chain.contains(PLANTED), "{chain}");
    check_shown(&shown);
}

impl Author {
    /// File, code and context of the error; the context ends where COPY quotes the row that it has come to.
    fn writes(self, input: &mut Input<'_>, planted: &str) -> [String; 3] {
        const CODES: [&str; 12] = [
            "23505", "42501", "57014", "40001", "42P01", "53100", "0A000", "08006", "22023", "P0001",
            "XX000", "58030",
        ];
        const OF_TYPES: [&str; 6] = ["numeric.c", "float.c", "varchar.c", "int.c", "json.c", "date.c"];
        const OF_NAMES: [&str; 4] = ["namespace.c", "relation.c", "parse_relation.c", "tablecmds.c"];
        const OF_STATEMENTS: [&str; 5] = [
            "execMain.c",
            "nbtinsert.c",
            "ri_triggers.c",
            "aclchk.c",
            "postgres.c",
        ];
        let copy = format!("COPY t, line {}, column a: \"{planted}\"", input.byte());
        let code = input.pick(&CODES);
        let own_code = Some(input.text().replace('\0', "")).filter(|code| !code.is_empty());
        let (file, code, context) = match self {
            Self::Function => {
                let context = format!("PL/pgSQL function f() line 3 at RAISE\n{copy}");
                ("pl_exec.c", own_code.unwrap_or_else(|| code.to_owned()), context)
            }
            Self::Value => (
                input.pick(&OF_TYPES),
                own_code.unwrap_or_else(|| "22P02".to_owned()),
                copy,
            ),
            Self::Named => {
                let code = input.pick(&["42P01", "42883", "42704", "42703"]);
                (input.pick(&OF_NAMES), code.to_owned(), copy)
            }
            Self::Within => {
                let context = format!(
                    "SQL function \"f\" statement 1\nSQL statement \"SELECT f('{planted}')\"\n{copy}"
                );
                (input.pick(&OF_STATEMENTS), code.to_owned(), context)
            }
        };
        [file.to_owned(), code, context]
    }
}

/// An error as a server sends it; whoever raises one in a function of theirs writes the names too.
fn error_message(file: &str, code: &str, context: &str, planted: &str, names_are_theirs: bool) -> Vec<u8> {
    let fixed = [
        (b'S', "ERROR"),
        (b'V', "ERROR"),
        (b'C', code),
        (b'M', planted),
        (b'D', planted),
        (b'H', planted),
        (b'W', context),
        (b'F', file),
        (b'L', "1"),
        (b'R', "f"),
    ];
    let names = b"stcdn"
        .iter()
        .filter(|_| names_are_theirs)
        .map(|field| (*field, planted));
    let fields = fixed.into_iter().chain(names);
    let mut body: Vec<u8> = fields
        .flat_map(|(field, value)| [&[field], value.as_bytes(), &[0]].concat())
        .collect();
    body.push(0);
    message(b'E', &body)
}

/// Bytes that come in pieces, and then the end. What is written goes nowhere.
struct Pieces<'a> {
    rest: &'a [u8],
    longest: usize,
    random: Option<u64>,
}

impl<'a> Pieces<'a> {
    fn of(rest: &'a [u8], longest: usize) -> Self {
        Self {
            rest,
            longest,
            random: None,
        }
    }

    fn whole(rest: &'a [u8]) -> Self {
        Self::of(rest, usize::MAX)
    }

    /// Of lengths that the number decides, most of them short.
    fn random(rest: &'a [u8], number: u8) -> Self {
        Self {
            random: Some(u64::from(number) + 1),
            ..Self::whole(rest)
        }
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(random) = &mut self.random {
            *random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let (length, kind) = ((*random >> 33) as usize, *random >> 62);
            self.longest = 1 + length % [4, 16, 300, 5000][kind as usize];
        }
        let length = self.longest.min(buf.remaining()).min(self.rest.len());
        let (piece, rest) = self.rest.split_at(length);
        buf.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Pieces<'_> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}
