//! Interfaces of the host program's own, which stubs may import if the operator grants it.
//!
//! Every host offers the contract. A program can offer its stubs more: a store, a codec in
//! hardware, a clock of its own. The program does the following:
//!
//! * It describes the interface in WIT.
//! * It implements [`HostImport`].
//! * It passes the implementation to
//!   [`RuntimeBuilder::host_import`](crate::RuntimeBuilder::host_import).
//! * It grants the interface to domains by name with
//!   [`DomainSettings::imports`](crate::DomainSettings::imports).
//!
//! The runtime refuses a component that imports an interface without the grant. The error names the
//! interface, and none of the component's code has run.
//!
//! ```
//! use protostub_runtime::{
//!     DomainSettings, Runtime,
//!     imports::{HostImport, StubInfo, StubState, wasmtime::{self, component::{HasSelf, Linker}}},
//! };
//!
//! wasmtime::component::bindgen!({
//!     inline: "
//!         package acme:lottery@1.0.0;
//!         interface numbers { draw: func() -> u32; }
//!         world host { import numbers; }
//!     ",
//!     wasmtime_crate: protostub_runtime::imports::wasmtime,
//! });
//! use acme::lottery::numbers;
//!
//! /// The state of the interface for each instance of a stub.
//! struct Draws(u32);
//!
//! impl numbers::Host for Draws {
//!     fn draw(&mut self) -> u32 {
//!         self.0 += 1;
//!         self.0
//!     }
//! }
//!
//! struct Lottery;
//!
//! impl HostImport for Lottery {
//!     const INTERFACE: &'static str = "acme:lottery/numbers@1.0.0";
//!     type Data = Draws;
//!
//!     fn data(&self, stub: &StubInfo) -> Draws {
//!         Draws(if stub.domain.as_str() == "sp1.example" { 100 } else { 0 })
//!     }
//!
//!     fn add_to_linker(
//!         &self,
//!         linker: &mut Linker<StubState>,
//!         data: fn(&mut StubState) -> &mut Draws,
//!     ) -> wasmtime::Result<()> {
//!         numbers::add_to_linker::<_, HasSelf<Draws>>(linker, data)
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut settings = DomainSettings::default();
//! settings.imports.insert(Lottery::INTERFACE.to_owned());
//! let runtime = Runtime::builder()
//!     .home_domain("home.example")
//!     .host_import(Lottery)
//!     .domain("sp1.example".parse()?, settings)
//!     .build()
//!     .await?;
//! # drop(runtime);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/key_value.rs` is a whole program, with a store that keeps domains apart.
//! `tests/programs/key-value` is a stub for it.
//!
//! This module is the only place where wasmtime appears in this library's API. The code that
//! `bindgen!` generates names wasmtime, and has to name the same version. A new major version of
//! wasmtime may change this module.

pub use protostub_sandbox::{HostImport, StubInfo, StubState, wasmtime};
