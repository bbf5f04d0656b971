#!/bin/sh
# Ends like a program whose panic has a backtrace.
cat > /dev/null
printf 'a panic: multiple memories\n\nStack backtrace:\n' >&2
for frame in 1 2 3 4 5 6 7 8 9; do echo "   $frame: wasmtime_environ::component::translate" >&2; done
exit 101
