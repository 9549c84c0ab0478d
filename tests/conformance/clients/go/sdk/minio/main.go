// Client of the matrix: minio-go with its IAM provider.
package main

import (
	"context"
	"io"
	"net/url"
	"os"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"conformance/steps"
)

func main() {
	s3, err := url.Parse(os.Getenv("S3_URL"))
	if err != nil {
		panic(err)
	}
	provider := credentials.NewIAM(os.Getenv("METADATA"))
	client, err := minio.New(s3.Host, &minio.Options{
		Creds:        provider,
		Secure:       s3.Scheme == "https",
		BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		panic(err)
	}
	steps.Run(func() (string, error) {
		object, err := client.GetObject(context.Background(), "proof", "proof", minio.GetObjectOptions{})
		if err != nil {
			return "", err
		}
		defer object.Close()
		if _, err := io.ReadAll(object); err != nil {
			return "", err
		}
		held, err := client.GetCreds()
		return held.AccessKeyID, err
	})
}
