#!/bin/sh
# The distribution's own Ruby and SDK, of the release that the tests run on; RubyGems is not asked.
set -eu
! dpkg-query -W -f '${db:Status-Status}' ruby-aws-sdk-core 2>/dev/null | grep -qx installed || exit 0
command -v apt-get >/dev/null || { echo "Ruby's SDK is missing: there is no apt-get to install it with" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -q
apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends ruby ruby-aws-sdk-core
