//! Promises to authors, tested as authors test their stubs.

mod body_via;
mod connection;
mod main_function;
mod messages;
mod streams;
mod tasks;
mod timing;
