#!/bin/sh
# NAME VERSION of what was built.
set -eu
sed -n '/^name = "aws-config"$/{n;s/version = "\(.*\)"/Rust \1/p}' "$CACHE/Cargo.lock"
