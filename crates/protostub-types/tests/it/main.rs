//! What is read from others, as they write it.

mod body_via;
mod descriptor;
mod messages;
