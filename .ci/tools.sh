#!/bin/sh
# Installs missing programs with apt-get: sh .ci/tools.sh PROGRAM[:PACKAGE]...
# Does nothing when all are there; elsewhere than on Debian and Ubuntu it says what is missing and fails.
set -eu
missing=''
for pair in "$@"; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
  echo "tools: missing, and there is no apt-get to install them with:$missing" >&2
  exit 1
fi
sudo=''
[ "$(id -u)" = 0 ] || sudo=sudo
echo "tools: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # words on purpose: no sudo for root, one package a word
if ! { $sudo apt-get -qq update &&
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "tools: could not install$missing (see above): install them by hand, then repeat" >&2
  exit 1
fi
