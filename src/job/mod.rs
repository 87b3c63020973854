//! What the user asked for, and what can be said of it: the validated job and its status. Pure data, no I/O.

pub mod status;
