//! The core runtime: deploys protocol stubs on demand and connects them to the message bus
