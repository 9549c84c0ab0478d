#!/bin/sh
# Builds the Go clients into $CACHE/bin. LATEST=1: with the newest modules instead of the pinned ones.
set -eu
: "${CACHE:?says where to install}"
command -v go >/dev/null || { echo "Go is missing: there is no go on the PATH" >&2; exit 1; }
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9
[ ! -e "$CACHE/done" ] || [ -n "${LATEST:-}" ] || exit 0

# The Go of this machine, and no C compiler.
export GOTOOLCHAIN=local GOWORK=off GOFLAGS=-buildvcs=false CGO_ENABLED=0
rm -rf "$CACHE/done" "$CACHE/bin" "$CACHE/src"
cp -R . "$CACHE/src"

build() { # folder, program, package
	cd "$CACHE/src/$1"
	if [ -n "${LATEST:-}" ]; then
		# What a client pins itself stays; a list of versions that cannot be had leaves the pinned one.
		for module in $(go list -m -f '{{if not (or .Main .Indirect)}}{{.Path}}{{end}}' all); do
			go get "$module@upgrade" || echo "kept as pinned: $module" >&2
		done
		go mod tidy
	fi
	go build -mod=readonly -trimpath -ldflags='-s -w' -o "$CACHE/bin/$2" "$3"
}

# One after the other: the compiler takes all cores by itself.
build sdk aws-v1 ./awsv1
build sdk aws-v2 ./awsv2
build sdk minio ./minio
build s5cmd s5cmd github.com/peak/s5cmd/v2
build rclone rclone .
build restic restic github.com/restic/restic/cmd/restic
rm -rf "$CACHE/src"
touch "$CACHE/done"
