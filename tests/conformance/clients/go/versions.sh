#!/bin/sh
# NAME VERSION of what was built, as the binaries tell.
set -eu
built() { # name, program, module
	go version -m "$CACHE/bin/$2" | awk -v name="$1" -v module="$3" '$2 == module { print name, substr($3, 2) }'
}
built "Go v1" aws-v1 github.com/aws/aws-sdk-go
built "Go v2" aws-v2 github.com/aws/aws-sdk-go-v2
built "minio-go" minio github.com/minio/minio-go/v7
built "s5cmd" s5cmd github.com/peak/s5cmd/v2
built "rclone" rclone github.com/rclone/rclone
built "restic" restic github.com/restic/restic
