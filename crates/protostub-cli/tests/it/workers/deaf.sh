#!/bin/sh
# Reads no input, and does not end.
exec sleep 600
