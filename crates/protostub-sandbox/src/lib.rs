//! One protocol stub, one wasmtime store, one task
