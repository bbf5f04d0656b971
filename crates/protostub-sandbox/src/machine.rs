//! Limits of the machine: the system bounds the number of memory mappings of a process, and each
//! sandbox takes some.

use std::fs;

use crate::EngineError;

/// Maximum number of mappings of one sandbox: of its linear memory, its tables and its fiber's
/// stack, with the guards around them.
const PER_SANDBOX: usize = 6;
/// Number of mappings for the rest of the process: libraries, the stacks of threads, compiled
/// components, the allocator.
const REST: usize = 4096;
/// Linux's file with the maximum number of mappings.
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";
/// Linux's file with the size of the machine's memory.
const MEMORY_INFO: &str = "/proc/meminfo";
/// Size of the memory of a machine that does not state it, in bytes.
const UNKNOWN_MEMORY_BYTES: usize = 8 << 30;

/// Returns the number of sandboxes that there is room for, or `None` if that is unknown and perhaps
/// unbounded.
pub(crate) fn most_sandboxes() -> Option<usize> {
    mappings().map(most)
}

/// Rejects more sandboxes than there is room for.
pub(crate) fn check(sandboxes: usize) -> Result<(), EngineError> {
    mappings().map_or(Ok(()), |allowed| check_with(sandboxes, allowed))
}

/// Returns the size of the machine's memory, in bytes.
pub(crate) fn memory_bytes() -> usize {
    fs::read_to_string(MEMORY_INFO).ok().and_then(|text| memory_of(&text)).unwrap_or(UNKNOWN_MEMORY_BYTES)
}

fn memory_of(text: &str) -> Option<usize> {
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?;
    kibibytes.parse::<usize>().ok()?.checked_mul(1024)
}

fn mappings() -> Option<usize> {
    fs::read_to_string(MAX_MAP_COUNT).ok()?.trim().parse().ok()
}

fn most(mappings: usize) -> usize {
    (mappings.saturating_sub(REST) / PER_SANDBOX).max(1)
}

fn check_with(sandboxes: usize, allowed: usize) -> Result<(), EngineError> {
    if sandboxes <= most(allowed) {
        return Ok(());
    }
    let needed = sandboxes.saturating_mul(PER_SANDBOX).saturating_add(REST);
    Err(EngineError::Mappings { sandboxes, most: most(allowed), allowed, needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_memory_is_its_total() {
        let text = "MemTotal:       24612860 kB\nMemFree:        13011788 kB\n";
        assert_eq!(memory_of(text), Some(24_612_860 << 10));
        assert_eq!([memory_of(""), memory_of("MemTotal: many kB\n")], [None, None]);
        assert!(memory_bytes() > 64 << 20);
    }

    #[test]
    fn default_linux_has_room_for_ten_thousand_sandboxes() {
        assert!(check_with(10_001, 65_530).is_ok());
        let error = check_with(20_000, 65_530).unwrap_err().to_string();
        assert_eq!(
            error,
            "20000 sandboxes need 124096 mappings of memory, and this machine allows a process 65530: have at most 10239 (`max-sandboxes`), or raise the \
             limit of the system (`sysctl -w vm.max_map_count=124096`)"
        );
        assert_eq!(most(100), 1, "at least one");
    }
}
