//! Locks in the state directory, by file: who serves its journal, who runs which job. The system releases them when the
//! process ends, however it ends, so what they say of a process is true also after a kill.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::FileType;
use xxhash_rust::xxh3::xxh3_64;

use super::{ConnectError, Directory};

/// The lock file of whoever serves the journal.
const JOURNAL: &str = "lock";
/// Locked, shared, by every process that serves the journal or would if it could.
const MEMBERS: &str = "members";
/// Whoever asks who runs a job holds its lock for an instant; so often, and so long, that may be.
const QUESTIONS: u32 = 5;
const QUESTION_TAKES: Duration = Duration::from_millis(10);

/// The journal is this process's to serve for as long as this lives. Its clones are the same lock.
#[derive(Debug, Clone)]
pub struct Lock {
    file: Arc<Mutex<File>>,
}

impl Lock {
    /// Takes the lock, without waiting.
    ///
    /// # Errors
    /// `Owned`, with the owner's process id, where a live process has it; `Directory` where the lock file is not ours.
    pub fn take(directory: &Directory) -> Result<Self, ConnectError> {
        match take(directory, JOURNAL)? {
            Taken::Ours(file) => Ok(Self {
                file: Arc::new(Mutex::new(file)),
            }),
            Taken::Theirs(pid) => Err(ConnectError::Owned {
                path: directory.path().to_owned(),
                pid,
            }),
        }
    }

    /// Sees that the lock file is still there, and makes it anew where somebody has removed it: others look for it. Whether it
    /// did; a process that has the new one, and finds the journal held, lets go of it again.
    ///
    /// # Errors
    /// `Owned`, `Directory`, `Lock`.
    pub fn keep(&self, directory: &Directory) -> Result<bool, ConnectError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if is_in_place(directory, JOURNAL, &file)? {
            return Ok(false);
        }
        match take(directory, JOURNAL)? {
            Taken::Ours(anew) => *file = anew,
            Taken::Theirs(pid) => {
                return Err(ConnectError::Owned {
                    path: directory.path().to_owned(),
                    pid,
                });
            }
        }
        Ok(true)
    }

    /// Whether the file is there that whoever serves has locked, or had when it died.
    ///
    /// # Errors
    /// `Directory`.
    pub fn is_there(directory: &Directory) -> Result<bool, ConnectError> {
        Ok(directory.inode(JOURNAL)?.is_some())
    }

    /// The process that serves, or is about to.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn holder(directory: &Directory) -> Result<Option<u32>, ConnectError> {
        holder(directory, JOURNAL)
    }
}

/// This process belongs to those that serve a state directory, one at a time, for as long as this lives.
#[derive(Debug)]
pub struct Membership {
    file: Mutex<File>,
}

impl Membership {
    /// Joins; any number may.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn join(directory: &Directory) -> Result<Self, ConnectError> {
        let file = Mutex::new(Self::file(directory)?);
        Ok(Self { file })
    }

    /// Joins again where somebody has removed the file.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn keep(&self, directory: &Directory) -> Result<(), ConnectError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_in_place(directory, MEMBERS, &file)? {
            *file = Self::file(directory)?;
        }
        Ok(())
    }

    fn file(directory: &Directory) -> Result<File, ConnectError> {
        let file = directory.file(MEMBERS)?;
        // Held alone for no longer than it takes to see that nobody else has it.
        file.lock_shared().map_err(failed(directory))?;
        Ok(file)
    }

    /// Whether any process belongs to them: one that serves, or is about to.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn is_taken(directory: &Directory) -> Result<bool, ConnectError> {
        match directory.file(MEMBERS)?.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(failed(directory)(source)),
        }
    }
}

/// A job is this process's to run for as long as this lives.
#[derive(Debug)]
pub struct JobLock {
    name: String,
    directory: Arc<Directory>,
    _file: File,
}

impl JobLock {
    /// Takes the lock of a job, without waiting; `Err` has the process that runs it.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn take(directory: &Arc<Directory>, job: &str) -> Result<Result<Self, u32>, ConnectError> {
        let name = file_of(job);
        let mut asked = 0;
        loop {
            match take(directory, &name)? {
                Taken::Ours(file) => {
                    let directory = Arc::clone(directory);
                    return Ok(Ok(Self {
                        name,
                        directory,
                        _file: file,
                    }));
                }
                Taken::Theirs(pid) if asked == QUESTIONS => return Ok(Err(pid)),
                Taken::Theirs(_) => {
                    asked += 1;
                    std::thread::sleep(QUESTION_TAKES);
                }
            }
        }
    }

    /// The process that runs a job.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn holder(directory: &Directory, job: &str) -> Result<Option<u32>, ConnectError> {
        holder(directory, &file_of(job))
    }
}

impl Drop for JobLock {
    fn drop(&mut self) {
        // Left behind it would be as good: it is locked that counts.
        _ = self.directory.remove(&self.name);
    }
}

/// Names of jobs may be longer than those of files.
fn file_of(job: &str) -> String {
    format!("job-{:016x}.lock", xxh3_64(job.as_bytes()))
}

enum Taken {
    Ours(File),
    Theirs(u32),
}

/// Locks a file alone, and writes who did it; says who has it otherwise.
fn take(directory: &Directory, name: &str) -> Result<Taken, ConnectError> {
    loop {
        let mut file = directory.file(name)?;
        match file.try_lock() {
            Ok(()) if !is_in_place(directory, name, &file)? => {}
            Ok(()) => {
                let written = file.set_len(0).and_then(|()| file.rewind());
                let written = written.and_then(|()| write!(file, "{}", std::process::id()));
                written.map_err(failed(directory))?;
                return Ok(Taken::Ours(file));
            }
            Err(TryLockError::WouldBlock) => {
                return pid_in(&mut file).map(Taken::Theirs).map_err(failed(directory));
            }
            Err(TryLockError::Error(source)) => return Err(failed(directory)(source)),
        }
    }
}

/// Whether an open file still has the name: one that was removed meanwhile locks nothing.
fn is_in_place(directory: &Directory, name: &str, file: &File) -> Result<bool, ConnectError> {
    let opened = file.metadata().map_err(failed(directory))?.ino();
    Ok(directory.inode(name)? == Some(opened))
}

/// Who has locked a file, if anybody has.
fn holder(directory: &Directory, name: &str) -> Result<Option<u32>, ConnectError> {
    if !directory.has(name, FileType::RegularFile)? {
        return Ok(None);
    }
    let mut file = directory.file(name)?;
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => pid_in(&mut file).map(Some).map_err(failed(directory)),
        Err(TryLockError::Error(source)) => Err(failed(directory)(source)),
    }
}

/// 0 where its holder has not yet written it.
fn pid_in(file: &mut File) -> std::io::Result<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text.trim().parse().unwrap_or_default())
}

fn failed(directory: &Directory) -> impl FnOnce(std::io::Error) -> ConnectError {
    let path = directory.path().to_owned();
    |source| ConnectError::Lock { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> (tempfile::TempDir, Arc<Directory>) {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let place = tempfile::Builder::new().permissions(private).tempdir();
        let place = place.expect("a directory");
        let directory = Directory::open(place.path()).expect("ours");
        (place, Arc::new(directory))
    }

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let (_place, directory) = ours();
        let lock = Lock::take(&directory).expect("nobody has it");
        match Lock::take(&directory) {
            Err(ConnectError::Owned { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(lock);
        Lock::take(&directory).expect("nobody has it any more");
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_made_anew_unless_another_has_it() {
        let (place, directory) = ours();
        let lock = Lock::take(&directory).expect("nobody has it");
        assert!(!lock.keep(&directory).expect("in place"));
        let remove = |name: &str| std::fs::remove_file(place.path().join(name)).expect("it was there");
        remove(JOURNAL);
        assert!(!Lock::is_there(&directory).expect("readable"));
        assert!(lock.keep(&directory).expect("nobody has the new one"));
        assert!(matches!(Lock::take(&directory), Err(ConnectError::Owned { .. })));
        remove(JOURNAL);
        let other = Lock::take(&directory).expect("nobody has the new one");
        assert!(matches!(lock.keep(&directory), Err(ConnectError::Owned { .. })));
        drop(other);
        assert!(lock.keep(&directory).expect("let go of"));
        drop(lock);
        let member = Membership::join(&directory).expect("anybody may");
        remove(MEMBERS);
        assert!(!Membership::is_taken(&directory).expect("readable"));
        member.keep(&directory).expect("anybody may");
        assert!(Membership::is_taken(&directory).expect("readable"));
    }

    #[test]
    fn members_are_many_and_are_known_to_be_there() {
        let (_place, directory) = ours();
        assert!(!Membership::is_taken(&directory).expect("readable"));
        let members = [(); 3].map(|()| Membership::join(&directory).expect("anybody may"));
        assert!(Membership::is_taken(&directory).expect("readable"));
        drop(members);
        assert!(!Membership::is_taken(&directory).expect("readable"));
    }

    #[test]
    fn a_job_has_one_runner_who_is_known_for_as_long_as_it_runs() {
        let (_place, directory) = ours();
        let us = Some(std::process::id());
        let holder = |job: &str| JobLock::holder(&directory, job).expect("readable");
        let take = |job: &str| JobLock::take(&directory, job).expect("writable");
        assert_eq!(holder("a"), None);
        for _ in 0..2 {
            let lock = take("a").expect("nobody runs it");
            assert_eq!((holder("a"), holder("b")), (us, None));
            assert_eq!(take("a").map(drop), Err(std::process::id()));
            drop(take(&"b".repeat(900)).expect("another one, with a long name"));
            drop(lock);
            assert_eq!(holder("a"), None);
        }
        let left: Vec<_> = std::fs::read_dir(directory.path()).expect("ours").collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn of_many_that_want_a_job_at_once_one_has_it_at_a_time() {
        let (_place, directory) = ours();
        let runs = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let Ok(lock) = JobLock::take(&directory, "a").expect("writable") else {
                            continue;
                        };
                        assert_eq!(runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        runs.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
