/// Maximum length of a file's name, in bytes, on the systems that Protostub runs on.
const MAX_BYTES: usize = 255;

/// Characters that separate, mark or match names on some system. A colon marks a drive or a stream
/// on Windows.
const RESERVED: [char; 9] = ['/', '\\', ':', '*', '?', '"', '<', '>', '|'];

/// Windows' devices. Each folder seems to contain them, with any extension.
const DEVICES: [&str; 7] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"];

/// Windows' devices that have a digit behind the name.
const NUMBERED_DEVICES: [&str; 2] = ["COM", "LPT"];

/// Returns the text if it names one file inside of a folder, on every system. Every name of a
/// stranger must pass this check before it becomes a part of a path.
///
/// The rules are the same everywhere. A name that only Windows reads as a drive, a device or a
/// stream is no file name on other systems either.
///
/// ```
/// use protostub_types::file_name;
///
/// assert_eq!(file_name("echo.wasm"), Some("echo.wasm"));
/// assert_eq!(file_name(".."), None);
/// assert_eq!(file_name("C:secret"), None);
/// ```
#[must_use]
pub fn file_name(text: &str) -> Option<&str> {
    let is_one_name = !text.is_empty() && text.len() <= MAX_BYTES && !text.contains(RESERVED);
    // Windows drops dots and blanks at the end. So this rule covers `.` and `..` too.
    let is_same_everywhere = !text.ends_with(['.', ' ']) && !text.contains(char::is_control);
    (is_one_name && is_same_everywhere && !is_device(text)).then_some(text)
}

fn is_device(text: &str) -> bool {
    let stem = text.split_once('.').map_or(text, |(stem, _)| stem).trim_end_matches(' ').to_ascii_uppercase();
    let is_numbered = || {
        let number = NUMBERED_DEVICES.iter().find_map(|device| stem.strip_prefix(device));
        // Windows also takes superscript digits.
        number.is_some_and(|number| matches!(number, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³"))
    };
    DEVICES.contains(&stem.as_str()) || is_numbered()
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn file_name_of_windows_device_or_stream_is_refused() {
        for refused in [
            "C:secret",
            "c:",
            "a:stream",
            "a::$DATA",
            "CON",
            "con",
            "Con.txt",
            "con .txt",
            "NUL",
            "nul.tar.gz",
            "AUX.wasm",
            "PRN",
            "COM1",
            "com1.wasm",
            "COM9",
            "LPT0",
            "LPT³",
            "COM¹.json",
            "CONIN$",
            "conout$",
            "CLOCK$",
            "a.",
            "a..",
            "a ",
            "a. .",
            " ",
            "...",
        ] {
            assert_eq!(file_name(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn file_name_that_leads_elsewhere_is_refused() {
        for refused in
            ["", ".", "..", "a/b", "/", "a\\b", "\\\\host", "..\\a", "a\0", "a\n", "a\u{85}", "*", "a?", "<", "a|b", "\""]
        {
            assert_eq!(file_name(refused), None, "{refused:?}");
        }
        assert_eq!(file_name(&"x".repeat(256)), None);
    }

    #[test]
    fn file_name_of_ordinary_files_is_taken() {
        for taken in
            ["default", "echo.wasm", ".well-known", "a b", " a", "ü", "CONSOLE", "com10", "LPT", "a.con", "nul-1", "COMx"]
        {
            assert_eq!(file_name(taken), Some(taken), "{taken:?}");
        }
        let longest = "x".repeat(255);
        assert_eq!(file_name(&longest), Some(longest.as_str()));
    }

    proptest! {
        /// The standard library of the system agrees: the text is one normal component.
        #[test]
        fn file_name_is_one_normal_component(text in "\\PC{0,6}|[a-c.:/\\\\ ]{0,6}") {
            if let Some(name) = file_name(&text) {
                let components: Vec<_> = Path::new(name).components().collect();
                prop_assert_eq!(components, [Component::Normal(name.as_ref())]);
            }
        }
    }
}
