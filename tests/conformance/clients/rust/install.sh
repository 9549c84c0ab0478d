#!/bin/sh
# Builds the Rust client into $CACHE. LATEST=1: with the newest crates instead of the pinned ones.
set -eu
: "${CACHE:?says where to install}"
command -v cargo >/dev/null || { echo "Rust is missing: there is no cargo on the PATH" >&2; exit 1; }
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9
[ ! -e "$CACHE/done" ] || [ -n "${LATEST:-}" ] || exit 0

rm -rf "$CACHE/done" "$CACHE/source"
cp -R . "$CACHE/source"
cd "$CACHE/source"
if [ -n "${LATEST:-}" ]; then
	sed -i 's/"=/"/' Cargo.toml
	cargo update --quiet
fi
cargo build --quiet --locked --target-dir "$CACHE/target"
mv "$CACHE/target/debug/conformance" Cargo.lock "$CACHE/"
rm -rf "$CACHE/target" "$CACHE/source"
touch "$CACHE/done"
