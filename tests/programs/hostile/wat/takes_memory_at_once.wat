;; Declares more memory than the limit.
(module
  (memory (export "memory") 1025)
  (global $top (mut i32) (i32.const 4096))
  (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get 3))))
  (func (export "rethink:protostub/stub@0.1.0#start") (param i32 i32) (result i32)
    (i32.const 16))
  (func (export "rethink:protostub/stub@0.1.0#handle") (param i32 i32)))
