//! The allocator of stubs that turn the feature `allocator` on: lists of freed blocks in front of
//! the target's allocator.
//!
//! A stub allocates and frees a few texts for each message that it handles, of the same sizes again
//! and again. This allocator takes a few instructions for each; the target's takes some hundred. An
//! idle stub has three pages of memory of its own instead of nine, for two reasons. The first
//! blocks are cut from memory next to the stub's other data, where the target's allocator begins
//! with a mark at the very end of all memory. And the stub's constants are not mapped before they
//! are read ([`Heap::written`]). `BENCHMARKS.md` has the figures.
//!
//! A freed block is kept for blocks of the same size. Blocks larger than [`SMALL`] come from the
//! target's allocator, and go back there.
#![expect(unsafe_code, reason = "an allocator deals in addresses")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::{Cell, UnsafeCell},
    ptr,
};

/// The largest size of a kept block, in bytes.
const SMALL: usize = 1024;
/// Unit of the blocks' sizes and addresses, in bytes. No usual type has a larger alignment.
const GRAIN: usize = 16;
/// Size of the first slab, in bytes: about the memory that a stub takes to become live.
const FIRST: usize = 2048;
/// Size of each further slab from the target's allocator, in bytes: a page, with the allocator's
/// overhead.
const SLAB: usize = 4096 - GRAIN;

#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
#[global_allocator]
static HEAP: Heap = Heap::new();

struct Heap {
    /// The last freed block of each size, in grains.
    freed: [Cell<*mut Block>; SMALL / GRAIN + 1],
    /// The part of the slab that no block was cut from yet, and its size.
    uncut: Cell<*mut u8>,
    left: Cell<usize>,
    /// Written before any read. A component's first action is to allocate. If that action began
    /// with a read, Linux would map all of the component's data at once (`fault_around_bytes`).
    /// That data is a file that instances share, and Linux would count it for each instance.
    written: Cell<bool>,
    first: First,
}

#[repr(align(16))]
struct First(UnsafeCell<[u8; FIRST]>);

/// The beginning of a free block.
struct Block {
    /// The block of the same size that was freed before.
    next: *mut Self,
}

// SAFETY: without `atomics`, a component has one thread.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
unsafe impl Sync for Heap {}

impl Heap {
    const fn new() -> Self {
        Self {
            freed: [const { Cell::new(ptr::null_mut()) }; SMALL / GRAIN + 1],
            uncut: Cell::new(ptr::null_mut()),
            left: Cell::new(0),
            written: Cell::new(false),
            first: First(UnsafeCell::new([0; FIRST])),
        }
    }

    /// Cuts an unused block. Returns null if there is no memory.
    #[cold]
    fn cut(&self, size: usize) -> *mut u8 {
        if self.left.get() < size {
            let (slab, length) = if self.uncut.get().is_null() {
                (self.first.0.get().cast(), FIRST)
            } else {
                // SAFETY: the layout's size is not zero.
                (unsafe { System.alloc(Layout::new::<[Grain; SLAB / GRAIN]>()) }, SLAB)
            };
            if slab.is_null() {
                return slab;
            }
            // The rest of the slab before is too small for this block, and becomes a block of
            // another size.
            if self.left.get() > 0 {
                self.keep(self.uncut.get(), self.left.get() / GRAIN);
            }
            self.uncut.set(slab);
            self.left.set(length);
        }
        let block = self.uncut.get();
        // SAFETY: that much is left of the slab.
        self.uncut.set(unsafe { block.add(size) });
        self.left.set(self.left.get() - size);
        block
    }

    /// Keeps a block of `grains` grains, at least one, that is no longer in use.
    fn keep(&self, block: *mut u8, grains: usize) {
        let block: *mut Block = block.cast();
        // SAFETY: the block is aligned to a grain, has at least one, and is not in use.
        unsafe { block.write(Block { next: self.freed[grains].get() }) };
        self.freed[grains].set(block);
    }
}

#[repr(align(16))]
struct Grain(#[expect(dead_code, reason = "only its size and alignment count")] [u8; GRAIN]);

/// Returns the number of grains of the layout's block, or `None` if such a block is not kept here.
/// The result depends only on the layout, which is the same when the block is freed.
fn grains(layout: Layout) -> Option<usize> {
    (layout.size() <= SMALL && layout.align() <= GRAIN).then(|| layout.size().div_ceil(GRAIN))
}

/// Allocates a block from the target's allocator. A function of its own, because alignment takes a
/// frame on the stack, which [`Heap::alloc`] would otherwise set up each time.
///
/// # Safety
/// As of [`GlobalAlloc::alloc`].
#[cold]
#[inline(never)]
unsafe fn large(layout: Layout) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { System.alloc(layout) }
}

// SAFETY: a block has at least the layout's size and is aligned to a grain. It has one owner at a
// time: it was cut from a slab once, and enters a list only after it was freed. No code here
// panics: no index is larger than `SMALL / GRAIN`. The target's allocator does the rest.
//
// Never inlined: a stub calls these functions in hundreds of places, and would be a twentieth
// larger.
unsafe impl GlobalAlloc for Heap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(grains) = grains(layout) else {
            // SAFETY: the caller's.
            return unsafe { large(layout) };
        };
        self.written.set(true);
        let block = self.freed[grains].get();
        if block.is_null() {
            return self.cut(grains * GRAIN);
        }
        // SAFETY: `keep` wrote the link there, and the block had no owner since.
        self.freed[grains].set(unsafe { (*block).next });
        block.cast()
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match grains(layout) {
            Some(grains) => self.keep(block, grains),
            // SAFETY: the caller's; the block came from the target's allocator.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if grains(layout).is_none() {
            // SAFETY: the caller's.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has that size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's: the size does not overflow when rounded up to the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (grains(layout), grains(wanted)) {
            // SAFETY: the caller's; the block came from the target's allocator.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (old, new) if old == new => block,
            _ => {
                // SAFETY: the caller's.
                let moved = unsafe { self.alloc(wanted) };
                if !moved.is_null() {
                    // SAFETY: both blocks have that size, and they are distinct.
                    unsafe { ptr::copy_nonoverlapping(block, moved, size.min(layout.size())) };
                    // SAFETY: the caller's; the old block is not used any more.
                    unsafe { self.dealloc(block, layout) };
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a block with a mark of its own.
    fn fill(block: *mut u8, size: usize, mark: u8) {
        // SAFETY: the test's own block, of that size.
        unsafe { block.write_bytes(mark, size) };
    }

    fn is_whole(block: *mut u8, size: usize, mark: u8) -> bool {
        // SAFETY: the test's own block, of that size, which was filled.
        unsafe { std::slice::from_raw_parts(block, size) }.iter().all(|byte| *byte == mark)
    }

    #[test]
    fn blocks_keep_their_bytes_while_others_change() {
        let heap = Heap::new();
        let mut random = fastrand::Rng::with_seed(7);
        let mut held: Vec<(*mut u8, Layout, u8)> = Vec::new();
        for step in 0..20_000_u32 {
            let mark = (step % 251) as u8;
            let size = if random.u8(..) < 16 { random.usize(1..5_000) } else { random.usize(1..300) };
            let layout = Layout::from_size_align(size, 1 << random.u32(0..6)).unwrap();
            match random.u8(0..4) {
                0 | 1 => {
                    // SAFETY: the size is not zero.
                    let block = unsafe { heap.alloc(layout) };
                    assert_eq!(block as usize % layout.align(), 0);
                    fill(block, size, mark);
                    held.push((block, layout, mark));
                }
                2 if !held.is_empty() => {
                    let (block, layout, mark) = held.swap_remove(random.usize(..held.len()));
                    assert!(is_whole(block, layout.size(), mark));
                    // SAFETY: the block is from this heap, with this layout, and is not used any
                    // more.
                    unsafe { heap.dealloc(block, layout) };
                }
                3 if !held.is_empty() => {
                    let nth = random.usize(..held.len());
                    let (block, layout, mark) = held[nth];
                    // SAFETY: the block is from this heap, with this layout.
                    let moved = unsafe { heap.realloc(block, layout, size) };
                    assert!(is_whole(moved, size.min(layout.size()), mark));
                    fill(moved, size, mark);
                    held[nth] = (moved, Layout::from_size_align(size, layout.align()).unwrap(), mark);
                }
                _ => {
                    // SAFETY: the size is not zero, and the block is given back.
                    unsafe {
                        let block = heap.alloc_zeroed(layout);
                        assert!(is_whole(block, size, 0));
                        fill(block, size, mark);
                        heap.dealloc(block, layout);
                    }
                }
            }
        }
        for (block, layout, mark) in held {
            assert!(is_whole(block, layout.size(), mark));
            // SAFETY: the block is from this heap, with this layout, and is not used any more.
            unsafe { heap.dealloc(block, layout) };
        }
    }

    #[test]
    fn freed_block_is_reused_for_the_same_size() {
        let heap = Heap::new();
        let layout = Layout::new::<[u8; 100]>();
        // SAFETY: each block is given back once, with its layout.
        unsafe {
            let first = heap.alloc(layout);
            heap.dealloc(first, layout);
            assert_eq!(heap.alloc(Layout::new::<[u8; 112]>()), first);
            assert_eq!(heap.realloc(first, Layout::new::<[u8; 112]>(), 97), first);
            heap.dealloc(first, Layout::new::<[u8; 97]>());
            let freed = Layout::new::<[u8; 96]>();
            let other = heap.alloc(freed);
            assert_ne!(other, first);
            heap.dealloc(other, freed);
        }
    }
}
