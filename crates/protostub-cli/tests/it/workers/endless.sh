#!/bin/sh
# Sends an endless answer.
exec cat /dev/zero
