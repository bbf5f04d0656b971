#!/bin/sh
# Answers with code that it was not asked for.
cat > /dev/null
printf 'protostub answer\000'
exec head -c 4096 /dev/zero
