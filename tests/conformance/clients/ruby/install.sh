#!/bin/sh
# The distribution's own Ruby and SDK, of the release that the tests run on; RubyGems is not asked.
set -eu
[ -z "${LATEST:-}" ] || echo "KEPT: Ruby: the distribution's own package is the client"
dpkg-query -W -f '${db:Status-Status}' ruby-aws-sdk-core 2>/dev/null | grep -qx installed ||
	sh ../apt.sh ruby ruby-aws-sdk-core
