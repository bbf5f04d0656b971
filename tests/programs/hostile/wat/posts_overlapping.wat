;; Posts a hundred messages whose bodies are all the same megabyte. Copied, they would be a hundred
;; megabytes. Beyond 128 MiB, wasmtime would refuse without a limit of the host.
(module
  (import "rethink:protostub/bus@0.1.0" "post" (func $post (param i32 i32 i32)))
  (memory (export "memory") 64)
  (global $top (mut i32) (i32.const 4096))
  (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get 3))))
  (func (export "rethink:protostub/stub@0.1.0#start") (param i32 i32) (result i32)
    (i32.const 16))
  (func (export "rethink:protostub/stub@0.1.0#handle") (param i32 i32)
    (local $at i32)
    (local.set $at (i32.const 65536))
    (loop $next
      ;; The body of a message: some, bytes, from 1 MiB on, 1 MiB.
      (i32.store offset=60 (local.get $at) (i32.const 1))
      (i32.store offset=64 (local.get $at) (i32.const 1))
      (i32.store offset=68 (local.get $at) (i32.const 1048576))
      (i32.store offset=72 (local.get $at) (i32.const 1048576))
      (local.set $at (i32.add (local.get $at) (i32.const 80)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 73536))))
    (call $post (i32.const 65536) (i32.const 100) (i32.const 16))))
