//! An asynchronous standby of a throwaway server, and the failover to it: how commits that were answered are lost.

use super::{ServerError, StopMode, ThrowawayServer, directory};

/// A running copy of a server, which receives what that one commits until it is told not to. On a port of its own; takes
/// sessions that only read. Dropping it stops and removes it.
#[derive(Debug)]
pub struct Standby(ThrowawayServer);

impl ThrowawayServer {
    /// Makes and starts an asynchronous standby of this server, which must run; takes about two seconds. When it returns,
    /// what was committed before the call is there; what is committed later follows, in no bounded time.
    ///
    /// # Errors
    /// Where this server does not run, without room, or where the standby does not come up.
    pub fn standby(&self) -> Result<Standby, ServerError> {
        let standby = Self {
            programs: self.programs.clone(),
            directory: directory(self.account)?,
            is_private: false,
            port: 0,
            account: self.account,
        };
        self.copy_to(&standby.data(), &["-R"])?;
        standby.start_on_a_free_port().map(Standby)
    }

    /// Fails over to a standby: stops this server as in a crash, if it still runs, promotes the standby, and starts that on
    /// this server's port. From then on this is the standby, on a timeline of its own, and what it had not received is gone
    /// together with the old data directory. Until the return nobody answers at the port.
    ///
    /// # Errors
    /// Where the standby is not promoted or does not come up at the port; then both are stopped, and this is the old one.
    pub fn fail_over_to(&mut self, standby: Standby) -> Result<(), ServerError> {
        let Standby(mut promoted) = standby;
        // It may be stopped already; where it still runs, the port is taken, and the start fails.
        _ = self.stop(StopMode::Immediate);
        let data = promoted.data();
        let data = data.to_string_lossy();
        promoted.run("pg_ctl", ["-D", &*data, "-w", "-t", "60", "promote"])?;
        // Promoted before it has the port: whoever connects there never sees it read-only.
        promoted.stop(StopMode::Fast)?;
        promoted.port = self.port;
        promoted.restart()?;
        *self = promoted;
        Ok(())
    }
}

impl Standby {
    /// A URL of the superuser for one of its databases.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.0.url(database)
    }

    /// Cuts it off: what the server commits after the return never arrives. Sessions on the standby end.
    ///
    /// # Errors
    /// Where it does not come up again; with the end of its log.
    pub fn stop_receiving(&self) -> Result<(), ServerError> {
        // A restart, and not a reload: when it is done, no receiver is left that could still write.
        self.0.stop(StopMode::Fast)?;
        self.0.append("postgresql.auto.conf", "primary_conninfo = ''\n")?;
        self.0.restart()
    }
}
