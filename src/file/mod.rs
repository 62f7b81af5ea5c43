//! Every file that the program reads or writes goes through here.
//!
//! [`open`] says what may be opened: regular files, and pipes where data are read. [`limits`] is the one list of what a
//! file may make the program take. `lines` reads what grows line by line. [`guard`] turns panics of foreign crates into errors. [`mod@write`] makes files whole or not
//! at all, and [`dirs`] directories. `own` keeps links from leading out of the directories that the program writes.

pub mod dirs;
pub mod guard;
pub mod limits;
pub(crate) mod lines;
pub mod open;
pub(crate) mod own;
pub mod write;
