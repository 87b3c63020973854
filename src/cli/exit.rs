//! What the process says when it ends: the one list of exit statuses.

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Done.
    Done,
    /// The job failed or was canceled, or data differ.
    Failed,
    /// The command line, the environment or the job file is wrong.
    Usage,
    /// The source cannot be reached, or does not hold what was asked for.
    Source,
    /// The target cannot be reached, or cannot take what was asked for.
    Target,
    /// The journal, the state directory or the service.
    Service,
    /// Interrupted, and resumable.
    Interrupted,
}

impl ExitStatus {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Source => 3,
            Self::Target => 4,
            Self::Service => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.code().into()
    }
}
