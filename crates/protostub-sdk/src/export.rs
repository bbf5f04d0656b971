//! The functions that [`export!`](crate::export!) expands to. Not for use by hand.

use std::future::Future;

use serde::de::DeserializeOwned;

use crate::{Result, Stub, guest, keep_connected};

/// Runs the export `start` of a stub with one function for each connection.
///
/// # Errors
/// The configuration cannot be read. The text says which part, and why.
pub fn start_run<C, F, Fut>(url: String, run: F) -> Result<(), String>
where
    C: DeserializeOwned + 'static,
    F: Fn(Stub, C) -> Fut + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    guest::start(url, |stub| {
        stub.configuration::<C>().map_err(|error| error.to_string())?;
        Ok(keep_connected(stub, run))
    })
}

/// Runs the export `start` of a stub with one function for its whole life.
///
/// # Errors
/// The configuration cannot be read. The text says which part, and why.
pub fn start_main<C, F, Fut>(url: String, main: F) -> Result<(), String>
where
    C: DeserializeOwned + 'static,
    F: FnOnce(Stub, C) -> Fut + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    guest::start(url, |stub| {
        let configuration = stub.configuration::<C>().map_err(|error| error.to_string())?;
        Ok(main(stub, configuration))
    })
}

/// Runs the export `handle`.
#[cfg(target_family = "wasm")]
pub fn handle(events: Vec<crate::bindings::rethink::protostub::types::Event>) {
    guest::handle(events.into_iter().map(guest::HostEvent::from));
}

/// Makes a component of an async function.
///
/// `export!(run)`: `async fn run(stub: Stub, config: Config) -> Result<()>` is one connection to
/// the domain's back-end. The SDK calls it whenever a connection is wanted: see
/// [`keep_connected`](crate::keep_connected).
///
/// `export!(main: main)`: the SDK calls the function once. The function handles all events itself,
/// with [`Stub::next_event`](crate::Stub::next_event).
///
/// `Config` is any type that serde can read. A configuration that serde cannot read ends the
/// deployment, with the path of the fault.
#[macro_export]
macro_rules! export {
    ($run:path) => {
        $crate::export!(@component start_run, $run);
    };
    (main: $main:path) => {
        $crate::export!(@component start_main, $main);
    };
    (@component $start:ident, $function:path) => {
        // In unit tests, which run natively, the fake host itself starts the function.
        #[cfg(not(target_family = "wasm"))]
        const _: fn(::std::string::String) -> ::std::result::Result<(), ::std::string::String> =
            |url| $crate::export::$start(url, $function);

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl $crate::bindings::exports::rethink::protostub::stub::Guest for Component {
                fn start(url: ::std::string::String) -> ::std::result::Result<(), ::std::string::String> {
                    $crate::export::$start(url, $function)
                }

                fn handle(events: ::std::vec::Vec<$crate::bindings::rethink::protostub::types::Event>) {
                    $crate::export::handle(events);
                }
            }

            $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
    };
}
