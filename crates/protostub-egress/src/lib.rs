//! The only way out of a Protostub runtime: grants, name resolution, checked dialling, TLS
