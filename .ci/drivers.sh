#!/bin/sh
# Software Vulkan drivers: for machines without a GPU, and for the gate.
#
#   sh .ci/drivers.sh system [--software]   the distribution's Vulkan loader and Mesa, system-wide, if no Vulkan driver
#                                           is installed; with --software: if no *software* driver (lavapipe) is
#   sh .ci/drivers.sh mesa26 PREFIX         a current Mesa (lavapipe with f16, subgroups, cooperative matrices; several
#                                           times faster than Debian 12's) in PREFIX, touching nothing outside it;
#                                           run a program with it as: PREFIX/run PROGRAM ARGS; beside it a spirv-val that
#                                           knows cooperative matrices: PREFIX/run PREFIX/root/usr/bin/spirv-val
#   sh .ci/drivers.sh swiftshader PREFIX    SwiftShader in PREFIX (a second, minimal Vulkan: no f16, 10 storage buffers);
#                                           select it with VK_DRIVER_FILES and VK_ICD_FILENAMES = PREFIX/icd.json
#   sh .ci/drivers.sh runner PREFIX BINARY  makes sure BINARY (tea-wgpu) finds an adapter, installing as little as
#                                           needed, and prints the program to start it with: nothing, or PREFIX/run
#
# Every command does nothing when its work is done already. Exit codes: 0 done; 1 failed, with what to do; 3 cannot be had on
# this system. What happens is told on stderr; stdout carries only the answer of `runner`.
set -eu

say() { printf 'drivers: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
unavailable() { say "$*"; exit 3; }
have() { command -v "$1" >/dev/null 2>&1; }

usage() { sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p;}' "$0" >&2; exit 1; }

# Runs a command as root: directly, or through sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif have sudo; then sudo "$@"
  else die "root is needed for: $* (run that as root, then repeat)"
  fi
}

# An ICD manifest whose file name matches $1 and a Vulkan loader are installed, or the user points at a driver.
has_vulkan() {
  [ "$1" = '*' ] && [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
  found=$(find /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d \
    "${XDG_DATA_HOME:-${HOME:-/root}/.local/share}/vulkan/icd.d" -name "$1.json" 2>/dev/null | head -n 1)
  [ -n "$found" ] || return 1
  { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null; } | grep -q 'libvulkan\.so\.1'
}

# dotted LOG COMMAND...: runs a command with its output in LOG. A dot every three seconds shows that it is alive.
dotted() {
  log=$1
  shift
  (
    trap '[ -z "$printed" ] || echo >&2; exit 0' TERM
    printed=''
    while :; do
      sleep 3 &
      wait $!
      printf '.' >&2
      printed=yes
    done
  ) &
  dots=$!
  status=0
  "$@" >"$log" 2>&1 || status=$?
  kill "$dots"
  wait "$dots" 2>/dev/null || :
  return $status
}

# Runs apt-get quietly; its output is shown only when it fails.
apt_quiet() {
  output=$(mktemp)
  if dotted "$output" "$@"; then rm -f "$output"; return 0; fi
  tail -n 20 "$output" >&2
  rm -f "$output"
  return 1
}

system() {
  wanted='*'
  [ "${1:-}" = --software ] && wanted='lvp_icd*'
  case $(uname -s) in
    Darwin) say 'macOS: Metal is part of the system, nothing to install'; return 0 ;;
    Linux) ;;
    *) say "$(uname -s): DX12 with WARP is part of Windows 10 and 11; elsewhere install a Vulkan driver by hand"; return 0 ;;
  esac
  has_vulkan "$wanted" && return 0
  if have apt-get; then
    say 'no Vulkan driver found: installing mesa-vulkan-drivers and libvulkan1 with apt-get'
    set -- env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install mesa-vulkan-drivers libvulkan1
    # A fresh container has no package lists: only then (or when they are stale) is an update needed.
    if ! dotted /dev/null as_root "$@"; then
      apt_quiet as_root apt-get -qq update || die 'apt-get update failed (network?): see above'
      apt_quiet as_root "$@" || die 'apt-get could not install mesa-vulkan-drivers libvulkan1: see above'
    fi
    has_vulkan "$wanted" || die 'the packages are installed, but no Vulkan driver manifest is in /usr/share/vulkan/icd.d'
    return 0
  fi
  if have dnf; then fix='sudo dnf install mesa-vulkan-drivers vulkan-loader'
  elif have pacman; then fix='sudo pacman -S vulkan-swrast vulkan-icd-loader'
  elif have zypper; then fix='sudo zypper install libvulkan_lvp libvulkan1'
  elif have apk; then fix='sudo apk add mesa-vulkan-swrast vulkan-loader'
  elif have brew; then fix='brew install mesa vulkan-loader'
  else fix='install a Vulkan driver (Mesa'\''s lavapipe works without a GPU) and the Vulkan loader'
  fi
  die "no Vulkan driver found. Run: $fix"
}

# Fails with exit code 3 unless this is Debian, whose packages the private prefixes are taken from.
need_debian() {
  # shellcheck source=/dev/null
  id=$(. /etc/os-release 2>/dev/null && echo "${ID:-}") || id=''
  if [ "$id" != debian ] || ! have apt-get || ! have dpkg; then
    unavailable "$1 comes from Debian's packages: not on this system"
  fi
}

# The Debian mirror this machine already uses.
debian_mirror() {
  { awk '/^URIs:/ && $2 !~ /security/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources
    awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /^[a-z]+:\/\// && $i !~ /security/) {print $i; exit}}' /etc/apt/sources.list
    echo https://deb.debian.org/debian
  } 2>/dev/null | head -n 1
}

mesa26() {
  prefix=$(mkdir -p "$1" && cd "$1" && pwd)
  # An older prefix lacks spirv-val.
  [ -x "$prefix/run" ] && [ -e "$prefix/root/usr/bin/spirv-val" ] && return 0
  need_debian 'the current Mesa'
  case $(dpkg --print-architecture) in
    amd64) triplet=x86_64-linux-gnu loader=ld-linux-x86-64.so.2 ;;
    arm64) triplet=aarch64-linux-gnu loader=ld-linux-aarch64.so.1 ;;
    *) unavailable 'the current Mesa is unpacked for amd64 and arm64 only' ;;
  esac
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -f "$keyring" ] || unavailable "$keyring is missing (apt-get install debian-archive-keyring)"
  say "unpacking a current Mesa into $prefix (about 250 MB)"
  work=$prefix/unpacking
  rm -rf "$work" "$prefix/root"
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$prefix/root"
  : >"$work/status" # an empty status file: apt resolves down to libc, so the prefix stands on its own
  for suite in trixie trixie-backports; do
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$(debian_mirror)" "$suite"
  done >"$work/sources.list"
  cat >"$work/apt.conf" <<CONF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
APT::Sandbox::User "$(id -un)";
Debug::NoLocking "1";
CONF
  apt_quiet env APT_CONFIG="$work/apt.conf" apt-get -qq update ||
    die 'could not read the trixie package lists: see above (the system Mesa works too, slower)'
  apt_quiet env APT_CONFIG="$work/apt.conf" apt-get -qq -y --no-install-recommends --download-only \
    -t trixie-backports install mesa-vulkan-drivers libvulkan1 spirv-tools ||
    die 'could not download the current Mesa: see above (the system Mesa works too, slower)'
  for package in "$work"/cache/archives/*.deb; do
    dotted /dev/null dpkg-deb -x "$package" "$prefix/root" || die "could not unpack $package: is the disk full?"
  done
  libraries=$prefix/root/usr/lib/$triplet
  # trixie merges /lib into /usr/lib, but a package may still ship either
  [ -e "$libraries/$loader" ] || die "the unpacked Mesa has no $loader: delete $prefix and repeat"
  sed "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$libraries/libvulkan_lvp.so\"#" \
    "$prefix"/root/usr/share/vulkan/icd.d/lvp_icd*.json >"$prefix/icd.json"
  cat >"$prefix/run.new" <<RUN
#!/bin/sh
# Starts PROGRAM ARGS with the Mesa (and the C library) unpacked beside this file.
export VK_DRIVER_FILES='$prefix/icd.json' VK_ICD_FILENAMES='$prefix/icd.json'
exec '$libraries/$loader' --library-path '$libraries:$prefix/root/lib/$triplet' "\$@"
RUN
  chmod +x "$prefix/run.new"
  rm -rf "$work"
  mv "$prefix/run.new" "$prefix/run" # last: its presence says that all is there
}

swiftshader() {
  prefix=$(mkdir -p "$1" && cd "$1" && pwd)
  [ -f "$prefix/icd.json" ] && return 0
  need_debian SwiftShader
  say "unpacking SwiftShader into $prefix"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  download() { (cd "$work" && apt-get -qq -o "APT::Sandbox::User=$(id -un)" download chromium-common); }
  if ! download >/dev/null 2>&1; then
    apt_quiet as_root apt-get -qq update || die 'apt-get update failed (network?): see above'
    apt_quiet download || die 'could not download chromium-common (SwiftShader is inside): see above'
  fi
  dpkg-deb --fsys-tarfile "$work"/chromium-common_*.deb |
    tar -x -C "$work" ./usr/lib/chromium/libvk_swiftshader.so ./usr/lib/chromium/vk_swiftshader_icd.json ||
    die 'chromium-common no longer holds SwiftShader where it was: see above'
  cp "$work/usr/lib/chromium/libvk_swiftshader.so" "$prefix/"
  sed "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$prefix/libvk_swiftshader.so\"#" \
    "$work/usr/lib/chromium/vk_swiftshader_icd.json" >"$prefix/icd.new"
  mv "$prefix/icd.new" "$prefix/icd.json"
}

# `tea-wgpu devices` ends with 0 when there is at least one adapter, with 2 when there is none. Without the self-test that
# takes a fraction of a second.
runner() {
  prefix=$1 binary=$2
  report=$(mktemp)
  trap 'rm -f "$report"' EXIT
  if ! "$binary" devices --json --no-self-test >"$report" 2>/dev/null; then
    say 'no GPU adapter found'
    (system --software) || exit 1
    "$binary" devices --json --no-self-test >"$report" ||
      die "still no adapter with the driver installed: $binary devices says why"
  fi
  # A GPU, or a choice the user made: nothing to improve.
  [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}${TEA_DEVICE:-}" ] && return 0
  grep -Eiq '"kind" *: *"(discrete|integrated|virtual)' "$report" && return 0
  [ "$(uname -s)" = Linux ] || return 0
  if (mesa26 "$prefix") && "$prefix/run" "$binary" devices --json --no-self-test >/dev/null 2>&1; then
    say 'no GPU: using the current software driver in its private prefix'
    (cd "$prefix" && printf '%s\n' "$PWD/run")
  else
    say 'no GPU: using the system software driver (slow, but it works)'
  fi
}

command=${1:-}
[ $# -gt 0 ] && shift
case $command in
  system) system "$@" ;;
  mesa26 | swiftshader) [ $# = 1 ] || usage; "$command" "$1" ;;
  runner) [ $# = 2 ] || usage; runner "$1" "$2" ;;
  *) usage ;;
esac
