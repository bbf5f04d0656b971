;; Computes without end while the host passes it a value.
(module
  (memory (export "memory") 2)
  (global $top (mut i32) (i32.const 4096))
  (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (loop $again (br $again)) (unreachable))
  (func (export "rethink:protostub/stub@0.1.0#start") (param i32 i32) (result i32)
    (i32.const 16))
  (func (export "rethink:protostub/stub@0.1.0#handle") (param i32 i32)))
