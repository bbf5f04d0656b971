//! The bindings that wit-bindgen generates from `wit/0.1`. Code reaches them through
//! [`crate::export!`] only.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, unsafe_code, reason = "generated code")]
#![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]

wit_bindgen::generate!({
    path: "../../wit/0.1",
    world: "protostub",
    pub_export_macro: true,
    export_macro_name: "export_component",
});
