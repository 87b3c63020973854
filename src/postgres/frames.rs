//! What a server sends, held to PostgreSQL's message frames (a type byte, a length) before the driver sees it.
//!
//! Until a session is set up nobody is trusted: a message is small and all of them together are few. Afterwards rows and
//! COPY data are as long as PostgreSQL's own limit, an answer that would be kept in memory is bounded, and what nobody
//! asked for (notices, notifications, parameters) is dropped: the driver would keep some of it for ever. A message
//! beyond a bound is not read; in its place the driver is given an error that says so, and the connection's end.

use super::error::Kind;
use super::pulse::Pulse;
use super::require_auth::Exchange;
use bytes::{BufMut, BytesMut};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// A message of a server that is not trusted yet.
const UNTRUSTED_MESSAGE_BYTES: usize = 64 << 10;

/// All messages of a server that is not trusted yet.
const UNTRUSTED_TOTAL_BYTES: usize = 1 << 20;

/// An error, a notice, a description of rows, from a server that is trusted.
const WORDS_BYTES: usize = 4 << 20;

/// A row, or a piece of COPY data: PostgreSQL makes no longer message.
const ROW_BYTES: usize = 1 << 30;

/// The answer to one statement without its COPY data, up to its last row: it is kept in memory.
const ANSWER_BYTES: usize = 256 << 20;

/// What a message costs beside its bytes, once it is taken apart.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// A type byte and a length.
const HEADER_BYTES: usize = 5;

/// The SQLSTATE of an error that stands in place of a message beyond a bound; no server of PostgreSQL's sends it.
pub(super) const REFUSED_SQLSTATE: &str = "LH001";

/// What is known of a connection beside what the driver tells.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pulse: Pulse,
    backend_pid: AtomicI32,
    trusted: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
}

/// Why we ended a connection.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub kind: Kind,
    pub words: String,
}

impl Watch {
    /// When bytes moved, and since when somebody waits for some.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Notes why the connection ends.
    pub(super) fn end_because(&self, kind: Kind, words: String) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(Refusal { kind, words });
    }

    /// The process that the server says is ours; 0 before it says so. A pooler makes one up.
    pub(super) fn backend_pid(&self) -> i32 {
        self.backend_pid.load(Ordering::Relaxed)
    }

    /// From now on the bounds are those of a server that is trusted.
    pub(super) fn trust(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }

    /// Why we ended the connection, if we did.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note(&self) {
        self.pulse.moved();
    }
}

/// A stream, within TLS where there is TLS, of which only messages within their bounds are read.
pub(super) struct Frames<S> {
    inner: S,
    watch: Arc<Watch>,
    sieve: Sieve,
    /// The beginning of a message that has not come whole.
    held: Vec<u8>,
}

impl<S> Frames<S> {
    pub(super) fn new(inner: S, watch: Arc<Watch>, exchange: Exchange) -> Self {
        watch.note();
        Self {
            inner,
            watch,
            sieve: Sieve::new(exchange),
            held: Vec::new(),
        }
    }
}

#[cfg(any(test, fuzzing))]
impl<S> Frames<S> {
    /// Bytes that are kept in memory for messages that are not whole or not taken.
    pub(super) fn kept_bytes(&self) -> usize {
        self.held.capacity() + self.sieve.out.capacity()
    }
}

/// What became of a read.
enum Came {
    /// Something for the driver.
    Passed,
    /// Nothing for the driver.
    Dropped,
    /// The connection's end.
    End,
}

impl<S: AsyncRead + Unpin> Frames<S> {
    /// Reads what comes straight into the driver's buffer, and takes out of it what is not for the driver.
    fn poll_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Came>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() == start {
            return Poll::Ready(Ok(Came::End));
        }
        self.watch.note();
        let kept = self
            .sieve
            .sift(&mut buf.filled_mut()[start..], &mut self.held, &self.watch);
        buf.set_filled(start + kept);
        Poll::Ready(Ok(if kept > 0 { Came::Passed } else { Came::Dropped }))
    }

    /// Reads one message and no byte more, or, after the log-in, the rest of a header that came in two parts.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Came>> {
        loop {
            let wanted = self.sieve.wanted(&self.held);
            if self.held.len() >= wanted {
                self.sieve.take(&mut self.held, &self.watch);
                return Poll::Ready(Ok(Came::Dropped));
            }
            let mut part = [0; 1024];
            let length = part.len().min(wanted - self.held.len());
            let mut part = ReadBuf::new(&mut part[..length]);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
            if part.filled().is_empty() {
                return Poll::Ready(Ok(Came::End));
            }
            self.watch.note();
            self.held.extend_from_slice(part.filled());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.sieve.out.is_empty() {
                let length = this.sieve.out.len().min(buf.remaining());
                buf.put_slice(&this.sieve.out.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if this.sieve.ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let came = if this.sieve.logged_in && this.held.is_empty() {
                ready!(this.poll_stream(cx, buf))?
            } else {
                ready!(this.poll_held(cx))?
            };
            match came {
                Came::Passed | Came::End => return Poll::Ready(Ok(())),
                Came::Dropped => {}
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if written.is_ready() {
            self.watch.note();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Frames<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

/// Tells the driver that its stream is encrypted already, or need not be.
pub(super) struct AsItIs;

impl<S: TlsStream + Unpin> TlsConnect<S> for AsItIs {
    type Stream = S;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<S, Self::Error>>;

    fn connect(self, stream: S) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}

/// Decides message by message; knows no stream.
struct Sieve {
    exchange: Exchange,
    logged_in: bool,
    /// What the driver is given before anything more is read.
    out: BytesMut,
    /// Bytes of the current message that have not come yet.
    rest: usize,
    /// Whether the driver is given them.
    passing: bool,
    /// Bytes of the log-in, or of the answer to the current statement.
    answer_bytes: usize,
    ended: bool,
}

impl Sieve {
    fn new(exchange: Exchange) -> Self {
        Self {
            exchange,
            logged_in: false,
            out: BytesMut::new(),
            rest: 0,
            passing: true,
            answer_bytes: 0,
            ended: false,
        }
    }

    /// How many bytes make the next decision.
    fn wanted(&self, held: &[u8]) -> usize {
        match held.first_chunk().map(length) {
            // One that is too long is decided about before it comes.
            Some(length) if !self.logged_in && length <= UNTRUSTED_MESSAGE_BYTES => 1 + length.max(4),
            _ => HEADER_BYTES,
        }
    }

    /// Decides about a message of the log-in, whole or too long, or about the header of a later one.
    fn take(&mut self, held: &mut Vec<u8>, watch: &Watch) {
        let Some(header) = held.first_chunk() else { return };
        let judged = match self.logged_in {
            true => self.judge(header, watch),
            false => self.judge_log_in(header, &held[HEADER_BYTES..], watch),
        };
        if let Err(refusal) = judged {
            self.refuse(refusal, watch);
        } else if self.passing {
            self.out.extend_from_slice(held);
        }
        self.rest = self.rest.saturating_sub(held.len());
        held.clear();
    }

    /// Moves what is for the driver to the front, and says how much that is. A header's part at the end is held.
    fn sift(&mut self, bytes: &mut [u8], held: &mut Vec<u8>, watch: &Watch) -> usize {
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() {
            if self.rest == 0 {
                let Some(header) = bytes[at..].first_chunk() else {
                    held.extend_from_slice(&bytes[at..]);
                    break;
                };
                if let Err(refusal) = self.judge(header, watch) {
                    self.refuse(refusal, watch);
                    break;
                }
            }
            let part = self.rest.min(bytes.len() - at);
            if self.passing {
                if kept < at {
                    bytes.copy_within(at..at + part, kept);
                }
                kept += part;
            }
            at += part;
            self.rest -= part;
        }
        kept
    }

    fn judge_log_in(
        &mut self,
        header: &[u8; HEADER_BYTES],
        body: &[u8],
        watch: &Watch,
    ) -> Result<(), Refusal> {
        let (tag, length) = (header[0], length(header));
        let is_first = self.answer_bytes == 0;
        if is_first && tag == b'E' && length > UNTRUSTED_MESSAGE_BYTES {
            // The postmaster answers in the words of PostgreSQL 7 where it cannot make a process.
            return Err(refusal(
                Kind::Transient,
                "the server could not start a session; its log says why",
            ));
        }
        if is_first && !b"RENv".contains(&tag) {
            return Err(refusal(
                Kind::Unreachable,
                "what answers there does not speak PostgreSQL's protocol",
            ));
        }
        self.count_untrusted(tag, length)?;
        match tag {
            b'R' => self
                .exchange
                .server_asks(body)
                .map_err(|words| refusal(Kind::Authentication, words))?,
            b'K' => {
                if let Some(pid) = body.first_chunk() {
                    watch
                        .backend_pid
                        .store(i32::from_be_bytes(*pid), Ordering::Relaxed);
                }
            }
            b'Z' => {
                self.logged_in = true;
                self.answer_bytes = 0;
            }
            _ => {}
        }
        Ok(())
    }

    fn judge(&mut self, header: &[u8; HEADER_BYTES], watch: &Watch) -> Result<(), Refusal> {
        let (tag, length) = (header[0], length(header));
        self.passing = !b"NSA".contains(&tag);
        if !watch.trusted.load(Ordering::Relaxed) && self.passing {
            self.count_untrusted(tag, length)?;
        } else {
            let bound = match tag {
                b'D' | b'd' => ROW_BYTES,
                b'E' | b'N' | b'S' | b'A' | b'T' | b't' => WORDS_BYTES,
                _ => UNTRUSTED_MESSAGE_BYTES,
            };
            check_length(tag, length, bound)?;
            if self.passing && tag != b'd' {
                if self.answer_bytes > ANSWER_BYTES {
                    let words = format!("the answer to one statement is longer than {ANSWER_BYTES} bytes");
                    return Err(refusal(Kind::Unknown, words));
                }
                self.answer_bytes += length + MESSAGE_OVERHEAD_BYTES;
            }
        }
        if tag == b'Z' {
            self.answer_bytes = 0;
        }
        self.rest = 1 + length;
        Ok(())
    }

    fn count_untrusted(&mut self, tag: u8, length: usize) -> Result<(), Refusal> {
        check_length(tag, length, UNTRUSTED_MESSAGE_BYTES)?;
        self.answer_bytes += length;
        if self.answer_bytes > UNTRUSTED_TOTAL_BYTES {
            let words = format!(
                "the server sends more than {UNTRUSTED_TOTAL_BYTES} bytes before a session is set up"
            );
            return Err(refusal(Kind::Unknown, words));
        }
        Ok(())
    }

    /// The driver is told by an error as a server would send it, and sees the connection's end behind it.
    fn refuse(&mut self, refusal: Refusal, watch: &Watch) {
        let mut fields = BytesMut::new();
        for (field, value) in [
            (b'S', "FATAL"),
            (b'V', "FATAL"),
            (b'C', REFUSED_SQLSTATE),
            (b'M', &refusal.words),
        ] {
            fields.put_u8(field);
            fields.put_slice(value.as_bytes());
            fields.put_u8(0);
        }
        fields.put_u8(0);
        self.out.put_u8(b'E');
        self.out
            .put_u32(u32::try_from(4 + fields.len()).expect("our own words are short"));
        self.out.put_slice(&fields);
        self.ended = true;
        *watch.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }
}

fn length(header: &[u8; HEADER_BYTES]) -> usize {
    let [_, length @ ..] = *header;
    usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)
}

fn check_length(tag: u8, length: usize, bound: usize) -> Result<(), Refusal> {
    if length < 4 {
        return Err(refusal(Kind::Unknown, "the server sends a message that is none"));
    }
    if length > bound {
        let tag = char::from(tag).escape_default();
        let words =
            format!("the server sends a message of {length} bytes (type {tag}), and {bound} is the most");
        return Err(refusal(Kind::Unknown, words));
    }
    Ok(())
}

fn refusal(kind: Kind, words: impl Into<String>) -> Refusal {
    Refusal {
        kind,
        words: words.into(),
    }
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
