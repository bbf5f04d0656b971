#!/bin/sh
# Ends by a signal.
kill -KILL $$
