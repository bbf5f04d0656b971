;; Imports an interface that no stub is given.
(component
  (import "evil:host/shell" (instance (export "run" (func (param "command" string)))))
  (import "wasi:http/outgoing-handler@0.2.12" (instance)))
