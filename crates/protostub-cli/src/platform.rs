//! The systems that the command runs on, and the parts that are missing there.

use std::env::consts::OS;

/// Logs a warning if this system is not tested, with the parts that are missing.
pub(crate) fn warn() {
    if let Some(missing) = missing_on(OS) {
        tracing::warn!(target: "protostub", "{missing}; run stubs of strangers on Linux");
    }
}

/// Returns the missing parts. Returns `None` for a system that is tested.
fn missing_on(system: &str) -> Option<&'static str> {
    match system {
        "linux" => None,
        "macos" => Some("this command is not tested on macOS, which does not limit the memory of the compile worker"),
        "windows" => Some(
            "this command is not tested on Windows, and has no control socket (`deploy`, `list`, `status` and `reload` reach no runtime), no reload by \
             signal, no compile worker, and no checks of the owners of files there",
        ),
        _ => Some("this command is not tested on this system"),
    }
}

#[cfg(test)]
mod tests {
    use super::missing_on;

    #[test]
    fn missing_parts_of_untested_systems_are_named() {
        assert_eq!(missing_on("linux"), None);
        for part in ["control socket", "compile worker", "reload", "owners of files"] {
            assert!(missing_on("windows").is_some_and(|missing| missing.contains(part)), "{part}");
        }
        assert!(missing_on("macos").is_some_and(|missing| missing.contains("memory of the compile worker")));
        assert!(missing_on("freebsd").is_some());
    }
}
