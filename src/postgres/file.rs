//! Files that somebody else may have made: read up to a bound, so that one without an end has one.

use std::fs::File;
use std::io::{self, Read};

/// No file of settings, services or passwords is larger.
const MAX_BYTES: u64 = 4 << 20;

/// All of a file's text.
///
/// # Errors
/// What goes wrong in reading, also where it is too large or no text.
pub fn read_text(file: File) -> io::Result<String> {
    let mut text = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_BYTES {
        let words = format!("it is larger than {} MiB", MAX_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_too_large() {
        let endless = File::open("/dev/zero").expect("a device");
        let error = read_text(endless).expect_err("it has no end");
        assert_eq!(error.to_string(), "it is larger than 4 MiB");
        let empty = File::open("/dev/null").expect("a device");
        assert_eq!(read_text(empty).expect("readable"), "");
    }
}
