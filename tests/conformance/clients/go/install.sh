#!/bin/sh
# Builds the Go clients into $CACHE/bin. LATEST=1: with the newest modules instead of the pinned ones.
set -eu
: "${CACHE:?says where to install}"
command -v go >/dev/null || { echo "Go is missing: there is no go on the PATH" >&2; exit 1; }
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9
[ ! -e "$CACHE/done" ] || [ -n "${LATEST:-}" ] || exit 0

# The Go of this machine, and no C compiler. Modules are held to go.sum.
export GOTOOLCHAIN=local GOWORK=off GOFLAGS=-buildvcs=false CGO_ENABLED=0
rm -rf "$CACHE/done" "$CACHE/bin" "$CACHE/src"
cp -R . "$CACHE/src"

compile() { # program, package
	go build -mod=readonly -trimpath -ldflags='-s -w' -o "$CACHE/bin/$1" "$2"
}

build() { # client, folder, program, package, modules: of these the newest is taken with LATEST, as they want each other
	name=$1 folder=$2 program=$3 package=$4
	shift 4
	cd "$CACHE/src/$folder"
	if [ -n "${LATEST:-}" ]; then
		cp go.mod go.sum ..
		if why=$({ go get "$@" && go mod tidy && compile "$program" "$package"; } 2>&1); then return; fi
		echo "KEPT: $name: $(echo "$why" | tail -n 1)"
		mv ../go.mod ../go.sum .
	fi
	compile "$program" "$package"
}

# One after the other: the compiler takes all cores by itself.
build "Go v1" sdk aws-v1 ./awsv1 github.com/aws/aws-sdk-go@upgrade
build "Go v2" sdk aws-v2 ./awsv2 github.com/aws/aws-sdk-go-v2/config@upgrade github.com/aws/aws-sdk-go-v2/service/sts@upgrade
build minio-go sdk minio ./minio github.com/minio/minio-go/v7@upgrade
build s5cmd s5cmd s5cmd github.com/peak/s5cmd/v2 github.com/peak/s5cmd/v2@upgrade
build rclone rclone rclone . github.com/rclone/rclone@upgrade
build restic restic restic github.com/restic/restic/cmd/restic github.com/restic/restic@upgrade
rm -rf "$CACHE/src"
touch "$CACHE/done"
