//! The contract's `json`: text whose bytes are most of what crosses.
#![expect(
    unsafe_code,
    reason = "wasmtime's traits for what crosses are unsafe to implement, and its own text is found to be UTF-8 a byte at a time: with 64 KiB that is not \
              ASCII, a round trip takes four times as long"
)]

use std::{mem::MaybeUninit, ops::Deref, sync::Arc};

use wasmtime::component::{
    __internal::{
        CanonicalAbiInfo, InstanceType, InterfaceType, LiftContext, LowerContext, wasmtime_environ::component::StringEncoding,
    },
    ComponentType, Lift, Lower, WasmStr,
};

/// Text as `Arc<str>`, which it is to wasmtime in all but how it is found to be UTF-8.
#[derive(Debug, Clone)]
pub struct Json(Arc<str>);

impl Json {
    /// What a guest with texts in UTF-8 wrote.
    fn read(bytes: &[u8]) -> wasmtime::Result<Self> {
        match simdutf8::basic::from_utf8(bytes) {
            Ok(text) => Ok(Self(text.into())),
            // Where it is not, is said by who is slower.
            Err(_) => Ok(Self(str::from_utf8(bytes)?.into())),
        }
    }
}

impl Deref for Json {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<Arc<str>> for Json {
    fn from(text: Arc<str>) -> Self {
        Self(text)
    }
}

impl From<Json> for Arc<str> {
    fn from(json: Json) -> Self {
        json.0
    }
}

// SAFETY: what a `Json` is lowered to, its size, its alignment and which WIT types it can be, are all those of `Arc<str>`.
unsafe impl ComponentType for Json {
    type Lower = <Arc<str> as ComponentType>::Lower;

    const ABI: CanonicalAbiInfo = <Arc<str> as ComponentType>::ABI;
    const MAY_REQUIRE_REALLOC: bool = <Arc<str> as ComponentType>::MAY_REQUIRE_REALLOC;

    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> wasmtime::Result<()> {
        <Arc<str> as ComponentType>::typecheck(ty, types)
    }
}

// SAFETY: `Arc<str>` does it.
unsafe impl Lower for Json {
    fn linear_lower_to_flat<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        ty: InterfaceType,
        dst: &mut MaybeUninit<Self::Lower>,
    ) -> wasmtime::Result<()> {
        self.0.linear_lower_to_flat(cx, ty, dst)
    }

    fn linear_lower_to_memory<T>(&self, cx: &mut LowerContext<'_, T>, ty: InterfaceType, offset: usize) -> wasmtime::Result<()> {
        self.0.linear_lower_to_memory(cx, ty, offset)
    }
}

// SAFETY: `Arc<str>` does it, or, from memory, `WasmStr` finds that the text is within the guest's memory; it is read from there with a check of its own.
unsafe impl Lift for Json {
    fn linear_lift_from_flat(cx: &mut LiftContext<'_>, ty: InterfaceType, src: &Self::Lower) -> wasmtime::Result<Self> {
        Lift::linear_lift_from_flat(cx, ty, src).map(Self)
    }

    fn linear_lift_from_memory(cx: &mut LiftContext<'_>, ty: InterfaceType, bytes: &[u8]) -> wasmtime::Result<Self> {
        if !matches!(cx.options().string_encoding, StringEncoding::Utf8) {
            return Lift::linear_lift_from_memory(cx, ty, bytes).map(Self);
        }
        // Also counts it among what the guest hands over in this call, which has a limit.
        WasmStr::linear_lift_from_memory(cx, ty, bytes)?;
        // A pointer and a length, of four bytes each: 64-bit memories are not enabled.
        let word = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize);
        let text = bytes.split_at_checked(4).and_then(|(at, length)| {
            let (at, length) = (word(at)?, word(length)?);
            cx.memory().get(at..)?.get(..length)
        });
        Self::read(text.ok_or_else(|| wasmtime::Error::msg("a text is not in the guest's memory"))?)
    }
}
