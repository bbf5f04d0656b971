#!/bin/sh
# Kills itself with a signal.
kill -KILL $$
