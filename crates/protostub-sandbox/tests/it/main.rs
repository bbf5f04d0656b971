//! The sandbox at its boundary: real components on a real bus.

mod code_cache;
mod crash;
mod hostile;
mod imports;
mod languages;
mod lifecycle;
mod limits;
mod messages;
mod own_imports;
mod speed;
mod support;
mod worlds;
