#!/bin/sh
# The distribution's own package, of the release that the tests run on: apt holds it to its signed lists.
set -eu
[ -z "${LATEST:-}" ] || echo "KEPT: AWS CLI v2: the distribution's own package is the client"
[ -x /usr/bin/aws ] || sh ../apt.sh awscli
