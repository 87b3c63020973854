//! Maps of payloads that are changed field by field: memos and search attributes.

use std::collections::HashMap;

use temporalio_protos::temporal::api::common::v1::Payload;

/// Data that stands for a field that is to be removed, as on a Temporal server: nothing, and in JSON nothing or an empty list.
const NOTHING: [&[u8]; 3] = [b"", b"null", b"[]"];

/// The fields with a change in the place of those that it names.
pub fn merged(
    mut fields: HashMap<String, Payload>,
    change: HashMap<String, Payload>,
) -> HashMap<String, Payload> {
    for (name, payload) in change {
        if NOTHING.contains(&payload.data.as_slice()) {
            fields.remove(&name);
        } else {
            fields.insert(name, payload);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[(&str, &str)]) -> HashMap<String, Payload> {
        let field = |(name, data): &(&str, &str)| {
            let data = data.as_bytes().to_vec();
            let payload = Payload {
                data,
                ..Default::default()
            };
            ((*name).to_owned(), payload)
        };
        of.iter().map(field).collect()
    }

    #[test]
    fn a_field_that_is_set_to_nothing_is_removed_and_an_empty_text_is_not_nothing() {
        let before = fields(&[
            ("kept", "1"),
            ("changed", "1"),
            ("null", "1"),
            ("list", "1"),
            ("none", "1"),
        ]);
        let change = fields(&[
            ("changed", "2"),
            ("null", "null"),
            ("list", "[]"),
            ("none", ""),
            ("text", "\"\""),
        ]);
        assert_eq!(
            merged(before, change),
            fields(&[("kept", "1"), ("changed", "2"), ("text", "\"\"")])
        );
    }
}
