#!/usr/bin/env bash
# Compiles the programs in bpf into internal/linux/bpf and internal/linux/flows of the
# source tree, or of directory $1.
# The result is the same on every machine: it depends on clang 14 and the headers of
# libbpf 1.1, as in Debian 12. The script installs them if they are missing (root).
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath "${1:-.}")/internal/linux

if ! { command -v clang-14 && command -v llvm-strip-14; } >/dev/null || [ ! -e /usr/include/bpf/bpf_helpers.h ]; then
  command -v apt-get >/dev/null || { echo "install clang 14, llvm 14 and the headers of libbpf" >&2; exit 1; }
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends clang-14 llvm-14 libbpf-dev; } >/dev/null
fi

compile() { # package stem
  mkdir -p "$out/$1"
  go -C bpf tool -modfile=../tools/go.mod bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -no-global-types \
    -go-package "$1" -output-dir "$out/$1" -output-stem "$2" "$2" "$2.c" -- \
    -O2 -mcpu=v3 -Wall -Wextra -Werror -I"/usr/include/$(gcc -print-multiarch)" >/dev/null
}

compile bpf service
compile flows flows
