//! Spends nearly all of every allowance, call after call: a timer has the next call begin at once.

use std::{hint::black_box, time::Instant};

use crate::{
    Stub,
    rethink::protostub::{bus, log, timers},
};

pub fn attack(stub: &Stub) -> Option<String> {
    let budget = u128::from(stub.configuration["milliseconds"].as_u64().unwrap_or(800));
    let to = stub.waiting.as_ref().map_or("", |request| &request.from);
    for _ in 0..200 {
        let _ = timers::after(1);
    }
    for _ in 0..20 {
        log::write(log::Level::Info, "still here");
    }
    let _ = bus::post(&vec![stub.message(&stub.url, to); 100]);
    let _memory = black_box(vec![1_u8; 40 << 20]);
    let begin = Instant::now();
    while begin.elapsed().as_millis() < budget {
        black_box(());
    }
    Some("below all limits".to_owned())
}
