//! Takes all available memory.

use std::hint::black_box;

use crate::Stub;

pub fn attack(_: &Stub) -> Option<String> {
    let mut chunks = Vec::new();
    loop {
        chunks.push(black_box(vec![1_u8; 1 << 20]));
    }
}
