#!/bin/sh
# NAME VERSION of what is installed.
set -eu
dpkg-query -W -f 'Ruby ${source:Upstream-Version}\n' ruby-aws-sdk-core
