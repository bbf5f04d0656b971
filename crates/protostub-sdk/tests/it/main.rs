//! What authors rely on, seen from a test of theirs.

mod body_via;
mod connection;
mod main_function;
mod messages;
mod streams;
mod tasks;
mod timing;
