//! A domain for development, demos and tests: a well-known catalogue and a message node
