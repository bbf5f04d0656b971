//! What is read from others, as they write it.

mod descriptor;
mod messages;
