#!/bin/sh
# Installs Debian packages. Waits for whoever has apt's locks: one of them has no waiting of apt's own.
set -eu
command -v apt-get >/dev/null || { echo "there is no apt-get to install $* with" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
turns=60
while :; do
	said=$({ apt-get -o DPkg::Lock::Timeout=300 update -q &&
		apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "$@"; } 2>&1) && exit 0
	turns=$((turns - 1))
	case $said in *"Could not get lock"*) ;; *) turns=0 ;; esac
	[ "$turns" -gt 0 ] || { echo "$said" >&2; exit 1; }
	sleep 5
done
