//! Calls of hooks: code that the host program gives to the library, and that may panic.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
};

use crate::SafeText;

/// Maximum size of a panic's message in an error, in bytes.
const MAX_MESSAGE_BYTES: usize = 512;

/// The panic of a hook. Its text names the hook and has the panic's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookPanicked {
    hook: &'static str,
    message: SafeText,
}

impl HookPanicked {
    /// Returns the name of the hook, as the host program writes it: `Source::open`.
    #[must_use]
    pub fn hook(&self) -> &'static str {
        self.hook
    }
}

impl fmt::Display for HookPanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host program's `{}` panicked: {}; correct the program", self.hook, self.message)
    }
}

impl std::error::Error for HookPanicked {}

/// Calls a hook.
///
/// # Errors
/// If the hook panics.
pub fn call_hook<T>(hook: &'static str, call: impl FnOnce() -> T) -> Result<T, HookPanicked> {
    // The hook's own state is the host program's concern. The library keeps no half of a call.
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|payload| HookPanicked { hook, message: SafeText::cut(panic_message(&*payload), MAX_MESSAGE_BYTES) })
}

/// Calls a hook that returns a future, and waits for its end.
///
/// # Errors
/// If the hook or its future panics.
pub async fn await_hook<F: Future + Unpin>(hook: &'static str, call: impl FnOnce() -> F) -> Result<F::Output, HookPanicked> {
    let mut running = call_hook(hook, call)?;
    let ended = poll_fn(|cx| match call_hook(hook, || Pin::new(&mut running).poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panicked) => Err(panicked).into(),
    })
    .await;
    // The end of the future is also the hook's code.
    call_hook(hook, || drop(running))?;
    ended
}

/// Returns the first line with text of a panic's message. The other lines may be a backtrace of
/// thousands of characters.
#[must_use]
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let first_line = message.and_then(|message| message.lines().map(str::trim).find(|line| !line.is_empty()));
    first_line.unwrap_or("the panic has no message")
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    /// Panics at its poll, or at its end.
    struct Panics {
        at_end: bool,
    }

    impl Future for Panics {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            assert!(self.at_end, "at the poll");
            Poll::Ready(())
        }
    }

    impl Drop for Panics {
        fn drop(&mut self) {
            assert!(!self.at_end, "at the end");
        }
    }

    fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn hook_that_panics_is_an_error_with_its_name() {
        assert_eq!(call_hook("on_crash", || 1), Ok(1));
        let panicked = call_hook("on_crash", || panic!("\nno room \u{202e}\nbacktrace")).expect_err("it panics");
        assert_eq!(panicked.hook(), "on_crash");
        let expected = r"the host program's `on_crash` panicked: no room \u{202e}; correct the program";
        assert_eq!(panicked.to_string(), expected);
        let silent = call_hook("on_crash", || std::panic::resume_unwind(Box::new(7)));
        assert!(silent.is_err_and(|panicked| panicked.to_string().contains("the panic has no message")));
    }

    #[test]
    fn hook_with_a_future_is_caught_wherever_it_panics() {
        assert_eq!(poll_once(await_hook("hook", || ready(1))), Poll::Ready(Ok(1)));
        let check = |polled: Poll<Result<(), HookPanicked>>, message: &str| {
            let Poll::Ready(Err(panicked)) = polled else { panic!("{polled:?}") };
            assert_eq!(panicked.message, message);
        };
        check(poll_once(await_hook("hook", || -> Panics { panic!("at the call") })), "at the call");
        check(poll_once(await_hook("hook", || Panics { at_end: false })), "at the poll");
        check(poll_once(await_hook("hook", || Panics { at_end: true })), "at the end");
    }
}
