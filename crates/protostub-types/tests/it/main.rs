//! Tests of reading the texts of others: descriptors, messages and addresses, as they write them.

mod body_via;
mod descriptor;
mod messages;
