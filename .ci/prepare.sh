#!/bin/sh
# Installs what the gate needs and a machine with only Rust lacks: Rust components, small tools, three software drivers.
# Quiet and quick when all is there. Usage: sh .ci/prepare.sh DRIVERS_DIRECTORY
set -eu
drivers=$1

cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

missing=''
for pair in make:make unzip:unzip curl:curl cc:gcc spirv-val:spirv-tools shellcheck:shellcheck; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
if [ -n "$missing" ]; then
  echo "installing:$missing"
  sudo=''
  [ "$(id -u)" = 0 ] || sudo=sudo
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "the gate installs its tools with apt-get, which is not here: install$missing by hand, then repeat" >&2
    exit 1
  fi
  # shellcheck disable=SC2086 # words on purpose: no sudo for root, one package a word
  {
    $sudo apt-get -qq update
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >/dev/null
  }
fi

sh .ci/drivers.sh system --software
sh .ci/drivers.sh mesa26 "$drivers/mesa26"
sh .ci/drivers.sh swiftshader "$drivers/swiftshader"
