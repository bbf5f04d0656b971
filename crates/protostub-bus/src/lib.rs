//! The message bus of Protostub: routing, bounded inboxes, requests and their responses
