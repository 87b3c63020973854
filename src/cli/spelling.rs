//! What was meant by a word that nobody knows: the nearest of those that are known.

/// Words less alike than this are no slips of one another.
const LIKENESS_MIN: f64 = 0.8;

/// The candidate most like `word`, if any is like it at all; neither case nor `-` for `_` counts.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.replace('-', "_").to_lowercase();
    let word = plain(word);
    let likeness = |candidate: &'a str| (strsim::jaro_winkler(&word, &plain(candidate)), candidate);
    let best = candidates
        .into_iter()
        .map(likeness)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_word_that_was_meant_and_nonsense_finds_none() {
        let known = ["audio_downloads", "video_downloads", "users"];
        for (word, meant) in [
            ("audio_download", Some("audio_downloads")),
            ("Audio-Downloads", Some("audio_downloads")),
            ("user", Some("users")),
            ("no-such-job", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest("users", []), None);
    }
}
