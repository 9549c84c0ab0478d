// Command rclone is rclone with one back end, S3, and the commands that the matrix runs.
package main

import (
	_ "github.com/rclone/rclone/backend/s3"
	"github.com/rclone/rclone/cmd"
	_ "github.com/rclone/rclone/cmd/cat"
)

func main() { cmd.Main() }
