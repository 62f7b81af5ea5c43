#!/bin/sh
# Installs what the gate needs and a machine with only Rust lacks: Rust components, small tools, three software drivers.
# Quiet and quick when all is there. Usage: sh .ci/prepare.sh DRIVERS_DIRECTORY
set -eu
drivers=$1

cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

sh .ci/tools.sh make cc:gcc curl unzip shellcheck
sh .ci/drivers.sh system --software
sh .ci/drivers.sh mesa26 "$drivers/mesa26"
sh .ci/drivers.sh swiftshader "$drivers/swiftshader"
