# Sourced by the scripts beside it: where the project lies, how builds are configured, how failures are said. Sets no options of its own.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build_root=${FLASH_ATTN_BUILD_ROOT:-$root/build}
jobs=${FLASH_ATTN_JOBS:-$(nproc)}

say() { printf '\n== %s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# configure <preset> [cmake argument...]: configures into $build_root/<preset>, with Ninja if it is there.
configure() {
  local preset=$1
  shift
  local generator=()
  if command -v ninja >/dev/null && [ ! -e "$build_root/$preset/CMakeCache.txt" ]; then generator=(-G Ninja); fi
  cmake -S "$root" --preset "$preset" -B "$build_root/$preset" "${generator[@]}" "$@" >"$build_root/$preset.log" 2>&1 ||
    { cat "$build_root/$preset.log"; die "configuring $preset failed"; }
}

# build <preset> [target...]: prints the compiler's words only when it fails.
build() {
  local preset=$1
  shift
  local targets=()
  if [ $# -gt 0 ]; then targets=(--target "$@"); fi
  cmake --build "$build_root/$preset" -j "$jobs" "${targets[@]}" >"$build_root/$preset.log" 2>&1 ||
    { tail -n 80 "$build_root/$preset.log"; die "building $preset failed (all of it: $build_root/$preset.log)"; }
}
mkdir -p "$build_root"
