#!/bin/sh
# Answers that it was built for another engine.
cat > /dev/null
printf 'protostub answer\002'
