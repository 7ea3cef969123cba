//! The partition store through its one door: replay, restart, publishing, deletes, retention, merges.

mod concurrency;
mod properties;
mod restart;
mod rules;
mod support;
