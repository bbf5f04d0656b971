//! Never comes to be a stub.

use std::hint::black_box;

pub fn start() {
    loop {
        black_box(());
    }
}
