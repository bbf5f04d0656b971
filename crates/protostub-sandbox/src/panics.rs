//! Panics of the compiler, as texts of one line.

use std::panic::{AssertUnwindSafe, catch_unwind};

use protostub_types::panic_message;

/// Runs the compiler.
///
/// # Errors
/// If the compiler panics: the [message](panic_message) of the panic.
pub(crate) fn catch<T>(compile: impl FnOnce() -> T) -> Result<T, String> {
    // Safe to go on afterwards: the panic drops all that this compilation has made.
    catch_unwind(AssertUnwindSafe(compile)).map_err(|payload| panic_message(&*payload).to_owned())
}

/// Returns the first line with text, without blanks around it.
pub(crate) fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::any::Any;

    use super::*;

    #[test]
    fn panic_of_the_compiler_becomes_one_line() {
        assert_eq!(catch(|| 1), Ok(1));
        let check = |payload: Box<dyn Any + Send>, expected: &str| {
            let caught = catch(|| -> () { std::panic::resume_unwind(payload) });
            assert_eq!(caught, Err(expected.to_owned()));
        };
        check(Box::new("broken"), "broken");
        check(Box::new("\nmultiple memories\n\nStack backtrace:\n   0: wasmtime\n".to_owned()), "multiple memories");
        check(Box::new(" \n "), "the panic has no message");
        check(Box::new(7), "the panic has no message");
    }
}
