#!/bin/sh
# NAME VERSION of what is installed.
set -eu
cd "$CACHE"
node -p '"JavaScript v2 " + require("aws-sdk/package.json").version'
node -p '"JavaScript v3 " + require("@aws-sdk/client-sts/package.json").version'
