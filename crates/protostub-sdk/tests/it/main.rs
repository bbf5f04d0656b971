//! Promises to authors, tested as authors test their stubs.

mod connection;
mod main_function;
mod messages;
mod streams;
mod tasks;
mod timing;
