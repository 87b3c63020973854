//! What sled's journal finds after a power cut: of each file the bytes as they were when it was last synced, of the directory
//! of large values the names likewise. Nothing else of them survives.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::blobs::{Blobs, Disk};
use super::{Journal, JournalError, SledJournal, Store, Write};

/// What happens at once, or never.
const DEADLINE: Duration = Duration::from_secs(20);

/// The inode of a file.
type Inode = u64;

/// Remembers what was synced, and nothing else.
#[derive(Default)]
struct Remembering {
    directory: PathBuf,
    bytes: Mutex<HashMap<Inode, Vec<u8>>>,
    names: Mutex<HashMap<String, Inode>>,
    broken: Mutex<bool>,
}

impl Disk for Remembering {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        if *self.broken.lock().unwrap() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let about = file.metadata()?;
        let mut bytes = vec![0; usize::try_from(about.len()).unwrap()];
        file.read_exact_at(&mut bytes, 0)?;
        self.bytes.lock().unwrap().insert(about.ino(), bytes);
        Ok(())
    }

    fn sync_names(&self, directory: &File) -> io::Result<()> {
        let blobs = self.directory.join("blobs");
        assert_eq!(directory.metadata()?.ino(), blobs.metadata()?.ino());
        *self.names.lock().unwrap() = names(&blobs);
        Ok(())
    }
}

impl Remembering {
    fn of(directory: &Path) -> Arc<Self> {
        Arc::new(Self {
            directory: directory.to_owned(),
            ..Self::default()
        })
    }

    /// Writes down what a power cut would leave now.
    fn cut(&self) -> tempfile::TempDir {
        let left = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&self.directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, left.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        let bytes = self.bytes.lock().unwrap();
        let db = self.directory.join("db").metadata().unwrap().ino();
        std::fs::write(left.path().join("db"), &bytes[&db]).unwrap();
        let blobs = left.path().join("blobs");
        std::fs::create_dir(&blobs).unwrap();
        for (name, inode) in self.names.lock().unwrap().iter() {
            let bytes = bytes.get(inode).map_or(&[][..], Vec::as_slice);
            std::fs::write(blobs.join(name), bytes).unwrap();
        }
        left
    }
}

fn names(directory: &Path) -> HashMap<String, Inode> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), entry.ino())
    });
    entries.collect()
}

/// A value of `bytes` bytes that tells its number.
fn value(number: u32, bytes: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

fn put(number: u32, bytes: usize) -> Write {
    Write::Put(format!("r{number:04}").into_bytes(), value(number, bytes))
}

fn reopened(left: &Path) -> Store {
    Store::open(Arc::new(SledJournal::open(left).unwrap())).unwrap()
}

#[tokio::test]
async fn large_values_that_were_durable_survive_a_power_cut() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Remembering::of(directory.path());
    let journal = SledJournal::open_on(directory.path(), Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let store = Store::open(Arc::new(journal)).unwrap();
    let sizes = [10, 1 << 20, 20 << 20, 10];
    for (number, bytes) in (0..).zip(sizes) {
        let sequence = store.apply(vec![put(number, bytes)]).unwrap();
        store.durable(sequence).await.unwrap();
        let left = disk.cut();
        let store = reopened(left.path());
        for (number, bytes) in (0..=number).zip(sizes) {
            let found = store.get(format!("r{number:04}").as_bytes()).unwrap();
            assert!(found == Some(value(number, bytes)), "{bytes} bytes are lost");
        }
    }
    assert!(
        names(&directory.path().join("blobs")).len() >= 2,
        "the values are in files of their own"
    );
}

#[test]
fn large_values_that_are_written_during_a_flush_survive_a_power_cut_after_the_next() {
    const VALUES: u32 = 40;
    let directory = tempfile::tempdir().unwrap();
    let disk = Remembering::of(directory.path());
    let journal = SledJournal::open_on(directory.path(), Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..VALUES {
                journal.apply(&[put(number, 1 << 20)]).unwrap();
            }
        });
        while !writer.is_finished() {
            journal.flush().unwrap();
        }
    });
    journal.flush().unwrap();
    let left = disk.cut();
    let journal = SledJournal::open(left.path()).unwrap();
    for number in 0..VALUES {
        let found = journal.get(format!("r{number:04}").as_bytes()).unwrap();
        assert!(found == Some(value(number, 1 << 20)), "value {number} is lost");
    }
}

#[test]
fn a_file_that_is_still_being_written_does_not_count_as_synced() {
    const FILES: u32 = 500;
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("blobs")).unwrap();
    let disk = Remembering::of(directory.path());
    let blobs = Blobs::of(directory.path());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..FILES {
                let _writing = blobs.writing();
                let path = directory.path().join("blobs").join(number.to_string());
                let mut file = File::create_new(path).unwrap();
                for part in [&b"CRC"[..], b"KIND", b"VALUE"] {
                    file.write_all(part).unwrap();
                    std::thread::yield_now();
                }
            }
        });
        while !writer.is_finished() {
            blobs.sync(disk.as_ref()).unwrap();
        }
    });
    blobs.sync(disk.as_ref()).unwrap();
    let bytes = disk.bytes.lock().unwrap();
    assert_eq!(bytes.len(), FILES as usize);
    assert!(bytes.values().all(|bytes| bytes == b"CRCKINDVALUE"));
}

#[test]
fn a_process_that_died_before_its_flush_leaves_nothing_unsynced_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let journal = SledJournal::open(directory.path()).unwrap();
    journal.apply(&[put(0, 1 << 20)]).unwrap();
    // sled writes on the way out, and syncs no large value.
    drop(journal);
    let disk = Remembering::of(directory.path());
    let journal = SledJournal::open_on(directory.path(), Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    assert_eq!(journal.get(b"r0000").unwrap(), Some(value(0, 1 << 20)));
    let left = disk.cut();
    let journal = SledJournal::open(left.path()).unwrap();
    assert_eq!(journal.get(b"r0000").unwrap(), Some(value(0, 1 << 20)));
}

#[test]
fn a_flush_that_cannot_sync_a_large_value_fails() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Remembering::of(directory.path());
    let journal = SledJournal::open_on(directory.path(), Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    journal.apply(&[put(0, 1 << 20)]).unwrap();
    *disk.broken.lock().unwrap() = true;
    let error = journal.flush().unwrap_err();
    assert!(matches!(error, JournalError::Io { .. }), "{error}");
}

#[test]
fn a_flush_without_new_large_values_syncs_the_log_only() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Remembering::of(directory.path());
    let journal = SledJournal::open_on(directory.path(), Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    journal.apply(&[put(0, 1 << 20)]).unwrap();
    journal.flush().unwrap();
    disk.bytes.lock().unwrap().clear();
    disk.names.lock().unwrap().clear();
    journal.apply(&[put(1, 10)]).unwrap();
    journal.flush().unwrap();
    let log = directory.path().join("db").metadata().unwrap().ino();
    assert_eq!(disk.bytes.lock().unwrap().keys().collect::<Vec<_>>(), [&log]);
    assert!(disk.names.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_value_that_cannot_be_written_ends_the_journal_and_nothing_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(SledJournal::open(directory.path()).unwrap())).unwrap();
    let before = store.apply(vec![put(0, 10)]).unwrap();
    std::fs::remove_dir(directory.path().join("blobs")).unwrap();
    let refused = store.apply(vec![put(1, 1 << 20)]).unwrap();
    store.durable(refused).await.unwrap_err();
    let ended = tokio::time::timeout(DEADLINE, store.durable(before)).await;
    ended.expect("whoever waits hears of it").unwrap_err();
    store.apply(vec![put(2, 10)]).unwrap_err();
    let dropped = tokio::task::spawn_blocking(move || drop(store));
    let dropped = tokio::time::timeout(DEADLINE, dropped).await;
    dropped.expect("it is let go").unwrap();
}
