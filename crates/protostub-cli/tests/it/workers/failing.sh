#!/bin/sh
# Fails, and says why.
echo 'no space left' >&2
exit 7
