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

newest() { # folder, modules: what these want themselves follows them; without a list of versions the pinned one stays
	[ -n "${LATEST:-}" ] || return 0
	cd "$CACHE/src/$1"
	shift
	for module; do
		go get "$module@upgrade" || echo "kept as pinned: $module" >&2
	done
	go mod tidy
}

build() { # folder, program, package
	cd "$CACHE/src/$1"
	go build -mod=readonly -trimpath -ldflags='-s -w' -o "$CACHE/bin/$2" "$3"
}

# One after the other: the compiler takes all cores by itself.
newest sdk github.com/aws/aws-sdk-go github.com/aws/aws-sdk-go-v2/config github.com/aws/aws-sdk-go-v2/service/sts \
	github.com/minio/minio-go/v7
build sdk aws-v1 ./awsv1
build sdk aws-v2 ./awsv2
build sdk minio ./minio
newest s5cmd github.com/peak/s5cmd/v2
build s5cmd s5cmd github.com/peak/s5cmd/v2
newest rclone github.com/rclone/rclone
build rclone rclone .
newest restic github.com/restic/restic
build restic restic github.com/restic/restic/cmd/restic
rm -rf "$CACHE/src"
touch "$CACHE/done"
