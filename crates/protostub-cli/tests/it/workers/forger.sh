#!/bin/sh
# Answers with code that does not belong to the request.
cat > /dev/null
printf 'protostub answer\000'
exec head -c 4096 /dev/zero
