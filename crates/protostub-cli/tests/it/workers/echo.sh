#!/bin/sh
# Answers what it was asked.
exec cat
