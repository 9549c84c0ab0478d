#!/bin/sh
# NAME VERSION of what was built: the places in its sources that the binary itself names.
set -eu
grep -aoE '/aws-config-[0-9]+\.[0-9]+\.[0-9]+/' "$CACHE/conformance" | sort -u | sed -E 's:^/aws-config-(.*)/$:Rust \1:'
