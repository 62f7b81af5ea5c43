#!/bin/sh
# Runs a command that is silent for long where its output is no terminal (cargo's last crate takes a minute and a half):
# sh .ci/alive.sh COMMAND... says every five seconds how long it has been going on. On a terminal cargo's own bar does.
set -eu
echo "$*"
[ -t 2 ] && exec "$@"
(
  seconds=0
  while sleep 5; do
    seconds=$((seconds + 5))
    echo "  $seconds s" >&2
  done
) &
ticks=$!
status=0
"$@" || status=$?
kill "$ticks" 2>/dev/null || :
exit $status
