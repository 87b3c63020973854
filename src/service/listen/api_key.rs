//! API keys: who knows one of them may ask anything. They lie in a file that others cannot read, a line each, so that one
//! can be put beside another before that one is taken away.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use subtle::{Choice, ConstantTimeEq};

/// Shorter ones could be found by trying.
const MIN_BYTES: usize = 16;
/// No file of keys is larger.
const MAX_FILE_BYTES: u64 = 64 << 10;
const SCHEME: &str = "Bearer ";

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The file cannot be read.
    #[error("cannot read the API keys in {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Whoever reads the file has the keys.
    #[error("{} can be read by others: chmod 0600 it (0640 if root owns it)", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{} holds no API keys: {rule}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What a file of keys is.
        rule: &'static str,
    },
}

/// The keys that open a door.
pub struct ApiKeys(Vec<Vec<u8>>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ApiKeys({})", self.0.len())
    }
}

impl ApiKeys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// Where others can read it, or a line of it is no key. No error shows what is in the file.
    pub fn read(path: &Path) -> Result<Self, ApiKeyError> {
        let failed = |source| ApiKeyError::Io {
            path: path.to_owned(),
            source,
        };
        let wrong = |rule| ApiKeyError::Content {
            path: path.to_owned(),
            rule,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(wrong("it is not a plain file"));
        }
        let open = if metadata.uid() == 0 { 0o037 } else { 0o077 };
        if metadata.mode() & open != 0 {
            return Err(ApiKeyError::Open {
                path: path.to_owned(),
            });
        }
        let mut text = String::new();
        let read = file.take(MAX_FILE_BYTES).read_to_string(&mut text);
        read.map_err(failed)?;
        Self::parse(&text).map_err(wrong)
    }

    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Vec<_> = lines.map(|line| line.as_bytes().to_vec()).collect();
        let is_key = |key: &Vec<u8>| key.len() >= MIN_BYTES && key.iter().all(|byte| byte.is_ascii_graphic());
        match keys.iter().all(is_key) && !keys.is_empty() {
            true => Ok(Self(keys)),
            false => Err("a key is a line of at least 16 letters, digits and signs, without a space"),
        }
    }

    /// Whether a request has one of them. How long it takes says nothing of how right a wrong one is.
    pub(super) fn open(&self, headers: &http::HeaderMap) -> bool {
        let given = headers.get(http::header::AUTHORIZATION).map(|it| it.as_bytes());
        let Some((scheme, given)) = given.and_then(|it| it.split_at_checked(SCHEME.len())) else {
            return false;
        };
        let one_of_them = self
            .0
            .iter()
            .fold(Choice::from(0), |found, key| found | key.as_slice().ct_eq(given));
        scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) && one_of_them.into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "0123456789abcdef";

    fn opens(keys: &str, authorization: &str) -> bool {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", authorization.parse().expect("a header"));
        ApiKeys::parse(keys).expect("keys").open(&headers)
    }

    #[test]
    fn a_right_key_opens_and_no_other_does() {
        let two = format!("{KEY}\n\nfedcba9876543210\n");
        for right in ["Bearer 0123456789abcdef", "bearer fedcba9876543210"] {
            assert!(opens(&two, right), "{right}");
        }
        for wrong in [
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789abcdeF",
            "Bearer ",
            "Basic  0123456789abcdef",
            "0123456789abcdef",
            "",
        ] {
            assert!(!opens(&two, wrong), "{wrong}");
        }
        assert!(!ApiKeys::parse(KEY).expect("a key").open(&http::HeaderMap::new()));
    }

    #[test]
    fn a_file_that_others_can_read_or_that_holds_no_keys_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("keys");
        let written = |text: &str, mode| {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("its mode");
            ApiKeys::read(&path)
        };
        assert!(written(KEY, 0o600).is_ok());
        assert!(matches!(written(KEY, 0o604), Err(ApiKeyError::Open { .. })));
        for text in [
            "",
            "\n",
            "short",
            "0123456789abcdef 0123456789abcdef",
            "ключ0123456789ab",
        ] {
            let error = written(text, 0o600).expect_err(text);
            assert!(matches!(error, ApiKeyError::Content { .. }), "{error:?}");
        }
        let nowhere = ApiKeys::read(&directory.path().join("nowhere"));
        assert!(matches!(nowhere, Err(ApiKeyError::Io { .. })));
    }
}
