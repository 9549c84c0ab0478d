// Client of the matrix: the AWS SDK for Go, version 1, with its default chain.
package main

import (
	"os"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/sts"

	"conformance/steps"
)

func main() {
	steps.PointAtMetadata()
	// The chain's error says "no valid providers" alone, and names this option to those who want to know why.
	shared := session.Must(session.NewSession(aws.NewConfig().WithCredentialsChainVerboseErrors(true)))
	client := sts.New(shared, aws.NewConfig().WithEndpoint(os.Getenv("STS_URL")))
	steps.Run(func() (string, error) {
		request, _ := client.GetCallerIdentityRequest(&sts.GetCallerIdentityInput{})
		err := request.Send()
		return steps.SignedWith(request.HTTPRequest.Header.Get("Authorization")), err
	})
}
