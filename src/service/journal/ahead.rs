//! Room for sled's log ahead of what is written of it. A write that makes a file longer has `fdatasync` write the file
//! system's own journal as well, which takes several times as long as the write; one into room that is there does not.
//!
//! The room reads as zeros, and so does a segment of sled's that was never written: it opens a file with room as one without.
//! Where a file system has no room to give, or does not say which of it is taken, the file grows as sled writes.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};
use rustix::io::Errno;

/// What is added at a time: so often is the file made longer.
const ROOM: u64 = 2 << 20;
/// The size of sled's segments, in whole ones of which its file is long.
const SEGMENT: u64 = 512 << 10;

/// Keeps a file longer than what is written of it.
#[derive(Default)]
pub(super) struct Ahead {
    /// The file system does not say what is written.
    blind: AtomicBool,
}

impl Ahead {
    /// To be called after each flush. Never an error: without room the file only grows as it did.
    pub(super) fn keep(&self, file: &File) {
        if self.blind.load(Ordering::Relaxed) {
            return;
        }
        let extended = file.metadata().and_then(|about| {
            let end = about.len();
            if !is_written_behind(file, end.saturating_sub(ROOM / 2))? {
                return Ok(());
            }
            fallocate(file, FallocateFlags::empty(), end, ROOM)?;
            match is_written_behind(file, end + ROOM / 2)? {
                true => Err(io::Error::from(io::ErrorKind::Unsupported)),
                false => Ok(()),
            }
        });
        if extended.is_err() {
            self.blind.store(true, Ordering::Relaxed);
        }
    }

    /// Takes away the room that the process before has left, before sled opens the file: it would write all of it.
    pub(super) fn take_away(path: &Path) -> io::Result<()> {
        let file = match File::options().write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        // As sled locks it: one that was closed a moment ago may still write.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let (end, mut written) = (file.metadata()?.len(), 0);
        while let Some(data) = next(&file, SeekFrom::Data(written))? {
            written = next(&file, SeekFrom::Hole(data))?.unwrap_or(end);
        }
        let kept = written.next_multiple_of(SEGMENT);
        if kept < end { file.set_len(kept) } else { Ok(()) }
    }
}

fn is_written_behind(file: &File, offset: u64) -> io::Result<bool> {
    Ok(next(file, SeekFrom::Data(offset))?.is_some())
}

/// None where the file has nothing of that kind any more.
fn next(file: &File, of: SeekFrom) -> io::Result<Option<u64>> {
    match seek(file, of) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn room_is_kept_ahead_of_what_is_written_and_taken_away_again() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("db");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let ahead = Ahead::default();
        let block = vec![7; 100_000];
        let mut written = 0;
        for _ in 0..100 {
            file.write_all_at(&block, written).unwrap();
            written += block.len() as u64;
            file.sync_data().unwrap();
            ahead.keep(&file);
            let end = file.metadata().unwrap().len();
            assert!(
                (written + ROOM / 2..=written + 2 * ROOM).contains(&end),
                "{end} with {written} written"
            );
        }
        Ahead::take_away(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), written.next_multiple_of(SEGMENT));
        let mut read = vec![0; block.len()];
        file.read_exact_at(&mut read, written - block.len() as u64)
            .unwrap();
        assert!(read == block);
        Ahead::take_away(&directory.path().join("none")).unwrap();
    }
}
