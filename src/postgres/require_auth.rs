//! `require_auth`: by which methods the operator lets us prove who we are, held against what the server asks for.
//!
//! As libpq: methods that may be used, or, each with a `!`, methods that may not. The decision falls before the driver
//! sees the server's question, so before any password is sent.

/// The methods, as libpq spells them; `none` is a server that asks for nothing.
const METHODS: [(&str, Method); 6] = [
    ("password", Method::Password),
    ("md5", Method::Md5),
    ("gss", Method::Gss),
    ("sspi", Method::Sspi),
    ("scram-sha-256", Method::Scram),
    ("none", Method::None),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Password,
    Md5,
    Gss,
    Sspi,
    Scram,
    None,
}

/// What the operator allows; the default allows everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RequireAuth {
    text: String,
    refused: Vec<Method>,
}

impl std::str::FromStr for RequireAuth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let entries: Vec<&str> = text.split(',').map(str::trim).collect();
        let negated = entries.iter().filter(|entry| entry.starts_with('!')).count();
        if negated > 0 && negated < entries.len() {
            return Err(
                "`require_auth` either names what is allowed, or, each with a !, what is not".to_owned(),
            );
        }
        let mut named = Vec::new();
        for entry in entries {
            let name = entry.strip_prefix('!').unwrap_or(entry);
            let Some((_, method)) = METHODS.iter().find(|(known, _)| *known == name) else {
                let known = METHODS.map(|(name, _)| name).join(", ");
                return Err(format!("`require_auth` is a list of {known}"));
            };
            if named.contains(method) {
                return Err(format!("`require_auth` names {name} twice"));
            }
            named.push(*method);
        }
        let methods = METHODS.map(|(_, method)| method).into_iter();
        Ok(Self {
            text: text.to_owned(),
            refused: methods
                .filter(|method| named.contains(method) == (negated > 0))
                .collect(),
        })
    }
}

/// How far one log-in's exchange is.
pub(super) struct Exchange {
    required: RequireAuth,
    /// Whether a method was carried through.
    finished: bool,
}

impl Exchange {
    pub(super) fn new(required: RequireAuth) -> Self {
        Self {
            required,
            finished: false,
        }
    }

    /// Holds the body of an Authentication message against what is required; the error is in words.
    pub(super) fn server_asks(&mut self, body: &[u8]) -> Result<(), String> {
        let code = body.first_chunk().map(|code| u32::from_be_bytes(*code));
        let (method, words) = match code {
            Some(0) if self.finished => return Ok(()),
            Some(0) => (Method::None, "asks for no proof of who we are"),
            Some(3) => (Method::Password, "asks for the password in clear text"),
            Some(5) => (Method::Md5, "asks for an MD5 hash of the password"),
            Some(7 | 8) => (Method::Gss, "asks for GSSAPI"),
            Some(9) => (Method::Sspi, "asks for SSPI"),
            Some(10..=12) => (Method::Scram, "asks for SCRAM"),
            _ if self.required.refused.is_empty() => return Ok(()),
            _ => {
                return Err(format!(
                    "require_auth={} is set, and the server asks for something unknown",
                    self.required.text
                ));
            }
        };
        if self.required.refused.contains(&method) {
            return Err(format!(
                "require_auth={} is set, and the server {words}",
                self.required.text
            ));
        }
        // SCRAM is over when the server has proved that it knows the password as well.
        self.finished |= matches!(code, Some(3 | 5 | 12));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(required: &str, codes: &[u32]) -> Result<(), String> {
        let mut exchange = Exchange::new(required.parse().expect(required));
        codes
            .iter()
            .try_for_each(|code| exchange.server_asks(&code.to_be_bytes()))
    }

    #[test]
    fn only_what_is_allowed_is_answered() {
        for (required, codes, allowed) in [
            ("scram-sha-256", &[10, 11, 12, 0][..], true),
            ("scram-sha-256", &[3], false),
            ("scram-sha-256", &[5], false),
            ("scram-sha-256", &[0], false),
            // The server skips its own proof.
            ("scram-sha-256", &[10, 11, 0], false),
            ("scram-sha-256,none", &[0], true),
            ("password, md5", &[5, 0], true),
            ("none", &[0], true),
            ("none", &[3], false),
            ("!password,!md5", &[3], false),
            ("!password,!md5", &[0], true),
            ("!password,!md5", &[10, 11, 12, 0], true),
            ("!none", &[0], false),
            ("!none", &[3, 0], true),
            ("gss", &[10], false),
            ("scram-sha-256", &[6], false),
        ] {
            assert_eq!(ask(required, codes).is_ok(), allowed, "{required} {codes:?}");
        }
        let mut anything = Exchange::new(RequireAuth::default());
        assert!(
            [3_u32, 0, 99]
                .iter()
                .all(|code| anything.server_asks(&code.to_be_bytes()).is_ok())
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["md5,!password", "scram", "md5,md5", "!", "md5,"] {
            assert!(text.parse::<RequireAuth>().is_err(), "{text}");
        }
    }
}
