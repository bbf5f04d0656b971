#!/bin/sh
# Fails, and prints the reason.
echo 'no space left' >&2
exit 7
