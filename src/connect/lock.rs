//! The lock of the state directory: one owner, known by its process id. The system releases it when the process ends,
//! however it ends.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};

use super::{ConnectError, Directory};

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
    /// `Owned`, with the owner's process id, where a live process has it; `Directory` where the lock file is not ours.
    pub fn take(directory: &Directory) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError::Lock {
            path: directory.path().to_owned(),
            source,
        };
        let mut file = directory.file(FILE)?;
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
                    path: directory.path().to_owned(),
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
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let directory = tempfile::Builder::new().permissions(private).tempdir();
        let directory = directory.expect("a directory");
        let directory = Directory::open(directory.path()).expect("ours");
        let lock = Lock::take(&directory).expect("nobody has it");
        match Lock::take(&directory) {
            Err(ConnectError::Owned { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(lock);
        Lock::take(&directory).expect("nobody has it any more");
    }
}
