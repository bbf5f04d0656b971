//! Takes a million handles of WASI, and returns none.

use std::mem;

use self::wasi::clocks::monotonic_clock::subscribe_duration;
use crate::Stub;

wit_bindgen::generate!({
    inline: "
        package hostile:handles;
        world needs { import wasi:clocks/monotonic-clock@0.2.12; }
        package wasi:io@0.2.12 {
            interface poll {
                resource pollable { ready: func() -> bool; block: func(); }
                poll: func(in: list<borrow<pollable>>) -> list<u32>;
            }
        }
        package wasi:clocks@0.2.12 {
            interface monotonic-clock {
                use wasi:io/poll@0.2.12.{pollable};
                type instant = u64;
                type duration = u64;
                now: func() -> instant;
                resolution: func() -> duration;
                subscribe-instant: func(when: instant) -> pollable;
                subscribe-duration: func(when: duration) -> pollable;
            }
        }
    ",
    generate_all,
});

pub fn attack(_: &Stub) -> Option<String> {
    for _ in 0..1_000_000 {
        mem::forget(subscribe_duration(u64::MAX));
    }
    Some("a million handles".to_owned())
}
