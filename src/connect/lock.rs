//! The lock of the state directory: one owner, known by its process id. The system releases it when the process ends,
//! however it ends.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::ConnectError;

/// The lock file's name within the state directory.
const FILE: &str = "lock";

/// The state directory is this process's for as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, without waiting.
    ///
    /// # Errors
    /// `Owned`, with the owner's process id, where a live process has it.
    pub fn take(state_directory: &Path) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError::Lock {
            path: state_directory.to_owned(),
            source,
        };
        let path = state_directory.join(FILE);
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
                write!(file, "{}", std::process::id()).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                let pid = text.trim().parse().unwrap_or_default();
                Err(ConnectError::Owned {
                    path: state_directory.to_owned(),
                    pid,
                })
            }
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let lock = Lock::take(directory.path()).expect("nobody has it");
        match Lock::take(directory.path()) {
            Err(ConnectError::Owned { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(lock);
        Lock::take(directory.path()).expect("nobody has it any more");
    }
}
