#!/bin/bash
# Proves that the product needs no RDMA package: in a mount namespace without libibverbs, its headers,
# libclang, cmake and pkg-config, the transport compiles, the command starts, and its doctor says
# what is missing. Needs root (for `unshare`) and a built `windlass`.
# usage: stripped.sh WINDLASS [--build]
set -eu
windlass=$(realpath "$1")
root=$(cd "$(dirname "$0")/../.." && pwd)
export WINDLASS_STRIPPED_ROOT=$root WINDLASS_STRIPPED_COMMAND=$windlass
export WINDLASS_STRIPPED_BUILD=${2:-}

exec unshare --mount --propagation private bash -euc '
upper=$(mktemp -d)
mount -t tmpfs tmpfs "$upper"
mkdir "$upper/files" "$upper/work"
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$upper/files,workdir=$upper/work" /usr
find /usr/lib /usr/lib64 -xdev \( -name "libibverbs*" -o -name "librdmacm*" -o -name "libclang*" \) \
    -exec rm -rf {} + 2>/dev/null || true
rm -rf /usr/include/infiniband /usr/include/rdma /usr/lib/llvm-*
rm -f /usr/bin/cmake /usr/bin/pkg-config /usr/bin/pkgconf /usr/bin/*clang* /usr/bin/llvm-config*
for gone in cmake pkg-config clang; do
    if command -v $gone >/dev/null; then echo "stripped: $gone is still there"; exit 1; fi
done
if [ "$WINDLASS_STRIPPED_BUILD" = --build ]; then
    cd "$WINDLASS_STRIPPED_ROOT"
    cargo build --offline -p windlass-transport --target-dir "${CARGO_TARGET_DIR:-target}/stripped"
fi
"$WINDLASS_STRIPPED_COMMAND" --version
report=$("$WINDLASS_STRIPPED_COMMAND" doctor || true)
echo "$report"
grep -q "libibverbs.so.1 cannot be loaded" <<<"$report"
grep -q "tcp: works" <<<"$report"
echo "stripped: ok"
'
