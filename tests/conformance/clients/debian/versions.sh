#!/bin/sh
# NAME VERSION of what is installed.
set -eu
dpkg-query -W -f 'AWS CLI v2 ${source:Upstream-Version}\n' awscli
