//! Panics of the compiler, as texts of one line.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs the compiler.
///
/// # Errors
/// If the compiler panics: the [text](text_of) of the panic.
pub(crate) fn catch<T>(compile: impl FnOnce() -> T) -> Result<T, String> {
    // Safe to go on afterwards: the panic drops all that this compilation has made.
    catch_unwind(AssertUnwindSafe(compile)).map_err(|payload| text_of(&*payload).to_owned())
}

/// Returns the first line of a panic's message. The other lines may be a backtrace of thousands of
/// characters.
pub(crate) fn text_of(payload: &(dyn Any + Send)) -> &str {
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    message.map(first_line).filter(|line| !line.is_empty()).unwrap_or("the panic has no message")
}

/// Returns the first line with text, without blanks around it.
pub(crate) fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
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
