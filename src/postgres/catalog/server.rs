//! Which server and database a session is connected to, and what of them concerns how values look.

use super::fields::Fields;
use crate::postgres::connect::Session;
use crate::postgres::error::Result;

/// Which server and database a session is connected to.
#[derive(Debug)]
pub(super) struct ServerIdentity {
    pub system_identifier: Option<String>,
    pub database: String,
    pub database_oid: u32,
    pub is_standby: bool,
    pub may_create_temporary: bool,
    /// How amounts of money are read and written: how many digits follow the point, for one.
    pub money_locale: String,
    /// In which text is stored, and so what the order of bytes means.
    pub encoding: String,
    started_at: String,
    address: String,
}

impl ServerIdentity {
    /// Whether money looks alike on both.
    pub(super) fn has_money_of(&self, other: &Self) -> bool {
        is_same_money(&self.money_locale, &other.money_locale)
    }

    /// Whether both are one server, or a server and its standby; a clone that was promoted is another server.
    pub(super) fn is_same_server(&self, other: &Self) -> bool {
        let same_start = self.started_at == other.started_at;
        match (&self.system_identifier, &other.system_identifier) {
            (Some(one), Some(two)) => one == two && (same_start || self.is_standby || other.is_standby),
            _ => same_start && self.address == other.address,
        }
    }
}

pub(super) async fn read_identity(session: &Session) -> Result<ServerIdentity> {
    let what = format!("ask the {} which server it is", session.side());
    let sql = "SELECT pg_catalog.current_database(), d.oid, pg_catalog.pg_is_in_recovery(),
                      pg_catalog.has_database_privilege(d.oid, 'TEMPORARY'),
                      EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text,
                      pg_catalog.concat(pg_catalog.inet_server_addr(), ':', pg_catalog.inet_server_port()),
                      pg_catalog.current_setting('lc_monetary'), pg_catalog.getdatabaseencoding(),
                      pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
               FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
    let mut row = Fields::of(session.row(&what, sql).await?);
    let mut identity = ServerIdentity {
        system_identifier: None,
        database: row.text(),
        database_oid: row.number(),
        is_standby: row.flag(),
        may_create_temporary: row.flag(),
        started_at: row.text(),
        address: row.text(),
        money_locale: row.text(),
        encoding: row.text(),
    };
    if row.flag() {
        let sql = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
        identity.system_identifier = session.row(&what, sql).await?.into_iter().next().flatten();
    }
    Ok(identity)
}

/// The same locale, or both without one.
fn is_same_money(one: &str, other: &str) -> bool {
    let is_plain = |locale: &str| {
        matches!(
            locale.to_ascii_lowercase().as_str(),
            "c" | "posix" | "c.utf-8" | "c.utf8"
        )
    };
    one == other || (is_plain(one) && is_plain(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_the_same_where_no_locale_shapes_it() {
        for (one, other, same) in [
            ("C", "POSIX", true),
            ("C.UTF-8", "C.utf8", true),
            ("de_DE.UTF-8", "de_DE.UTF-8", true),
            ("C", "ja_JP.UTF-8", false),
            ("de_DE.UTF-8", "en_US.UTF-8", false),
        ] {
            assert_eq!(is_same_money(one, other), same, "{one} {other}");
        }
    }
}
