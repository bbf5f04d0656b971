//! Breaks before it is a stub.

pub fn start() {
    panic!("in start");
}
