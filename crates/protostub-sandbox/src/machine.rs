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

/// Returns the number of sandboxes that there is room for, or `None` if that is unknown and perhaps
/// unbounded.
pub(crate) fn most_sandboxes() -> Option<usize> {
    mappings().map(most)
}

/// Rejects more sandboxes than there is room for.
pub(crate) fn check(sandboxes: usize) -> Result<(), EngineError> {
    mappings().map_or(Ok(()), |allowed| check_with(sandboxes, allowed))
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
