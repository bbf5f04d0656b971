//! The message node and the catalogue as their clients see them: over WebSocket and HTTP.

mod allocation;
mod catalogue;
mod client;
mod connect;
mod lifecycle;
mod limits;
mod registration;
mod routing;
mod subscription;
