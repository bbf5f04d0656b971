//! Has the host make a gigabyte of random bytes, in one call.

use self::wasi::random::random::get_random_bytes;
use crate::Stub;

wit_bindgen::generate!({
    inline: "
        package hostile:random;
        world needs { import wasi:random/random@0.2.12; }
        package wasi:random@0.2.12 {
            interface random {
                get-random-bytes: func(len: u64) -> list<u8>;
                get-random-u64: func() -> u64;
            }
        }
    ",
    generate_all,
});

pub fn attack(_: &Stub) -> Option<String> {
    Some(format!("{} random bytes", get_random_bytes(1 << 30).len()))
}
