#!/bin/sh
# Installs the JavaScript SDKs into $CACHE. LATEST=1: the newest SDKs instead of the pinned ones.
set -eu
: "${CACHE:?says where to install}"
for tool in node npm; do
	command -v "$tool" >/dev/null || { echo "JavaScript is missing: there is no $tool on the PATH" >&2; exit 1; }
done
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9
[ ! -e "$CACHE/done" ] || [ -n "${LATEST:-}" ] || exit 0

rm -rf "$CACHE/done" "$CACHE/node_modules"
cp package.json package-lock.json ./*.js "$CACHE/"
cd "$CACHE"
quietly="--no-audit --no-fund --no-update-notifier --ignore-scripts --loglevel=error"
if [ -n "${LATEST:-}" ]; then
	# shellcheck disable=SC2086 # these are words
	npm install $quietly aws-sdk@latest @aws-sdk/client-sts@latest
else
	# shellcheck disable=SC2086
	npm ci $quietly
fi
touch "$CACHE/done"
