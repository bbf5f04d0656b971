//! Never returns from `start`.

use std::hint::black_box;

pub fn start() {
    loop {
        black_box(());
    }
}
