//! Traps in `start`, before it is a stub.

pub fn start() {
    panic!("in start");
}
