// Client of the matrix: the AWS SDK for Go, version 2, with its default configuration.
package main

import (
	"context"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"conformance/steps"
)

func main() {
	steps.PointAtMetadata()
	ctx := context.Background()
	shared, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		panic(err) // reads the environment and an empty home, and asks nobody yet
	}
	client := sts.NewFromConfig(shared, func(options *sts.Options) {
		options.BaseEndpoint = aws.String(os.Getenv("STS_URL"))
	})
	steps.Run(func() (string, error) {
		if _, err := client.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}); err != nil {
			return "", err
		}
		held, err := shared.Credentials.Retrieve(ctx)
		return held.AccessKeyID, err
	})
}
