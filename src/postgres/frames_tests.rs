//! Which messages of a server reach the driver, in whatever pieces they come.

use super::*;
use tokio::io::AsyncReadExt;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(u32::try_from(4 + body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// The header of a message that never comes.
fn header(tag: u8, length: u32) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(length.to_be_bytes());
    bytes
}

fn log_in() -> Vec<u8> {
    [
        message(b'R', &[0; 4]),
        message(b'S', b"server_version\x0015.4\0"),
        message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]),
        message(b'Z', b"I"),
    ]
    .concat()
}

/// What the driver reads of what a server sends in pieces of this length, and what is known afterwards.
async fn read(sent: &[u8], piece: usize, trusted: bool) -> (Vec<u8>, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    if trusted {
        watch.trust();
    }
    let pieces = sent.chunks(piece).map(<[u8]>::to_vec).collect();
    let mut frames = Frames::new(
        Pieces(pieces),
        Arc::clone(&watch),
        Exchange::new(Default::default()),
    );
    let mut seen = Vec::new();
    frames.read_to_end(&mut seen).await.unwrap();
    (seen, watch)
}

/// Gives what it has piece by piece, then ends.
struct Pieces(std::collections::VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let length = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..length]);
            piece.drain(..length);
            if !piece.is_empty() {
                self.0.push_front(piece);
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_was_asked_for_passes_and_the_rest_is_dropped_in_whatever_pieces() {
    let rows = [
        message(b'T', b"described"),
        message(b'D', &[7; 3000]),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let asides = [
        message(b'N', &[8; 5000]),
        message(b'S', b"a\0b\0"),
        message(b'A', b"n"),
    ];
    let sent = [
        log_in(),
        asides.concat(),
        rows.clone(),
        asides.concat(),
        rows.clone(),
        asides.concat(),
    ]
    .concat();
    let wanted = [log_in(), rows.clone(), rows].concat();
    for piece in [1, 2, 3, 5, 7, 64, 1000, 4096, usize::MAX] {
        for trusted in [false, true] {
            let (seen, watch) = read(&sent, piece, trusted).await;
            assert!(seen == wanted, "pieces of {piece}");
            assert_eq!(watch.backend_pid(), 7);
            assert!(watch.refusal().is_none());
        }
    }
}

#[tokio::test]
async fn a_message_beyond_its_bound_is_refused_before_it_comes() {
    for (after_log_in, trusted, beyond) in [
        (false, false, header(b'R', 2_000_000_000)),
        (false, false, header(b'N', 70_000)),
        (true, false, header(b'D', 70_000)),
        (true, true, header(b'E', 5 << 20)),
        (true, true, header(b'N', 5 << 20)),
        (true, true, header(b'S', 2_000_000_000)),
        (true, true, header(b'd', (1 << 30) + 1)),
        (true, true, header(b'C', 70_000)),
        (true, true, header(b'D', 3)),
        (true, true, header(b'D', u32::MAX)),
    ] {
        let before = if after_log_in {
            log_in()
        } else {
            message(b'R', &[0, 0, 0, 3])
        };
        for piece in [1, usize::MAX] {
            let (seen, watch) = read(
                &[before.clone(), beyond.clone(), vec![0; 100]].concat(),
                piece,
                trusted,
            )
            .await;
            let error = seen.strip_prefix(&*before).expect("all that came before");
            assert_eq!(error.first(), Some(&b'E'), "{beyond:?}");
            let words = watch.refusal().expect("a refusal").words;
            assert!(
                String::from_utf8_lossy(error).contains(&words) && words.contains("message"),
                "{words}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_kept_in_memory_is_bounded_and_what_streams_is_not() {
    let watch = Watch::default();
    watch.trust();
    let judged = |tag, length, count| {
        let mut sieve = Sieve::new(Exchange::new(Default::default()));
        sieve.logged_in = true;
        let header: Vec<u8> = header(tag, length);
        (0..count).try_for_each(|_| sieve.judge(header.first_chunk().unwrap(), &watch))
    };
    assert!(judged(b'd', 1 << 30, 1000).is_ok());
    assert!(judged(b'D', 1 << 20, 250).is_ok());
    assert!(judged(b'D', 1 << 30, 1).is_ok(), "PostgreSQL's longest row");
    let words = judged(b'D', 1 << 20, 300).expect_err("an answer").words;
    assert!(words.contains("answer"), "{words}");
    // Messages of no bytes cost memory too.
    assert!(judged(b'I', 4, 5_000_000).is_err());
    let flood = [message(b'R', &[0; 4]), message(b'N', &[1; 60_000]).repeat(20)].concat();
    let (seen, watch) = read(&flood, 1 << 16, false).await;
    assert!(
        watch.refusal().is_some() && seen.len() < 2 << 20,
        "{}",
        seen.len()
    );
}

#[tokio::test]
async fn what_is_no_postgresql_is_told_so() {
    for (answer, kind) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], Kind::Unreachable),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Kind::Unreachable),
        (b"Ecould not fork new process for connection\0", Kind::Transient),
    ] {
        let refusal = read(answer, usize::MAX, false).await.1.refusal();
        assert_eq!(refusal.expect("a refusal").kind, kind);
    }
}
