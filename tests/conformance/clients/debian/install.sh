#!/bin/sh
# The distribution's own packages, of the release that the tests run on.
set -eu
[ ! -x /usr/bin/aws ] || exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -q
apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends awscli
