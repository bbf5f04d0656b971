#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use protostub_fuzz::generate;

fuzz_target!(|data: &[u8]| protostub_fuzz::component(data));

// Hardly any random bytes are a component. So every other input is generated to be valid.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 2 == 0 {
        if let Some(stub) = generate::stub(&data[..size], seed, max_size) {
            data[..stub.len()].copy_from_slice(&stub);
            return stub.len();
        }
    }
    fuzzer_mutate(data, size, max_size)
});
