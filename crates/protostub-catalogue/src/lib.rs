//! From a domain to bytes that may be trusted: descriptors, source packages and their digests
