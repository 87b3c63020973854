//! A server that means harm. It speaks as much of PostgreSQL's protocol as an attacker needs, and keeps what it is sent.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What it does once a client has sent its startup message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attack {
    /// Begins a message of 2 GB in place of a log-in.
    HugeAtLogIn,
    /// Sends notices for ever, or parameters, in place of a log-in.
    FloodAtLogIn(u8),
    /// Lets the client in, answers its first query by a message of 2 GB.
    Huge,
    /// Lets the client in, answers its first query by small messages of this type for ever.
    Flood(u8),
    /// Says nothing.
    Silent,
    /// Lets the client in, and says nothing more.
    SilentThen,
    /// Asks for the password in clear text, and hangs up.
    AskForPassword,
    /// Hangs up.
    HangUp,
}

/// The server's port, and all that was ever sent to it.
pub fn hostile(attack: Attack) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&sent);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kept = Arc::clone(&kept);
            // It ends when the client has gone.
            std::thread::spawn(move || serve(stream, attack, &kept));
        }
    });
    (port, sent)
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(u32::try_from(4 + body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// The answers to a log-in that asks for nothing.
pub fn welcome(pid: u32) -> Vec<u8> {
    let mut key = pid.to_be_bytes().to_vec();
    key.extend([1, 2, 3, 4]);
    [
        message(b'R', &[0; 4]),
        message(b'S', b"server_version\x0012.22\0"),
        message(b'K', &key),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn serve(mut stream: TcpStream, attack: Attack, kept: &Mutex<Vec<u8>>) -> Option<()> {
    let read = |stream: &mut TcpStream| {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
        kept.lock().unwrap().extend_from_slice(&buffer[..length]);
        Some(buffer[..length].to_vec())
    };
    if attack == Attack::HangUp {
        return None;
    }
    let mut first = read(&mut stream)?;
    if first.get(4..8) == Some(&[4, 210, 22, 47]) {
        stream.write_all(b"N").ok()?;
        first = read(&mut stream)?;
    }
    drop(first);
    match attack {
        Attack::HugeAtLogIn => huge(&mut stream, b'R'),
        Attack::FloodAtLogIn(tag) => {
            stream.write_all(&message(b'R', &[0; 4])).ok()?;
            flood(&mut stream, tag)
        }
        Attack::AskForPassword => {
            stream.write_all(&message(b'R', &[0, 0, 0, 3])).ok()?;
            read(&mut stream).map(drop)
        }
        Attack::Silent | Attack::SilentThen => {
            if attack == Attack::SilentThen {
                stream.write_all(&welcome(7)).ok()?;
            }
            while read(&mut stream).is_some() {}
            None
        }
        Attack::Huge | Attack::Flood(_) => {
            stream.write_all(&welcome(7)).ok()?;
            read(&mut stream)?;
            match attack {
                Attack::Flood(tag) => flood(&mut stream, tag),
                _ => huge(&mut stream, b'E'),
            }
        }
        Attack::HangUp => None,
    }
}

/// The beginning of a message of 2 GB, and as much of it as is taken.
fn huge(stream: &mut TcpStream, tag: u8) -> Option<()> {
    let mut header = vec![tag];
    header.extend(2_000_000_000_u32.to_be_bytes());
    stream.write_all(&header).ok()?;
    let zeros = vec![0; 1 << 16];
    loop {
        stream.write_all(&zeros).ok()?;
    }
}

fn flood(stream: &mut TcpStream, tag: u8) -> Option<()> {
    let mut number = 0_u64;
    if tag == b'D' {
        let described = [&[0, 1][..], b"a\0", &[0; 18]].concat();
        stream.write_all(&message(b'T', &described)).ok()?;
    }
    loop {
        let mut many = Vec::new();
        while many.len() < 1 << 16 {
            number += 1;
            many.extend(match tag {
                b'S' => message(
                    b'S',
                    format!("parameter{number}\0{}\0", "x".repeat(100)).as_bytes(),
                ),
                b'N' => message(
                    b'N',
                    format!("SNOTICE\0C00000\0M{}\0\0", "x".repeat(1000)).as_bytes(),
                ),
                b'D' => message(b'D', &[&[0, 1, 0, 0, 3, 232][..], &[b'x'; 1000]].concat()),
                tag => message(tag, b""),
            });
        }
        stream.write_all(&many).ok()?;
    }
}
