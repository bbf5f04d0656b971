//! What authors of protocol stubs use: an async API over the Protostub contract
