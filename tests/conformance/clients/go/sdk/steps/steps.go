// Package steps speaks the matrix's protocol: one line of JSON for each proving call.
package steps

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
)

type line struct {
	Step  int    `json:"step"`
	OK    bool   `json:"ok"`
	Key   string `json:"key,omitempty"`
	Error string `json:"error,omitempty"`
}

// Run proves once at once and then once for each line of standard input, and returns at its end.
// prove makes the proving call and returns the access key id that the client made it with.
func Run(prove func() (string, error)) {
	input := bufio.NewScanner(os.Stdin)
	for step := 1; step == 1 || input.Scan(); step++ {
		said := line{Step: step, OK: true}
		if key, err := prove(); err != nil {
			said.OK, said.Error = false, err.Error()
		} else {
			said.Key = key
		}
		out, err := json.Marshal(said)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(out))
	}
}

var signature = regexp.MustCompile(`Credential=([^/]+)/`)

// SignedWith returns the access key id in an Authorization header. To ask a provider for it instead can be one more
// request to the metadata service, when what it holds is about to expire.
func SignedWith(authorization string) string {
	if found := signature.FindStringSubmatch(authorization); found != nil {
		return found[1]
	}
	return ""
}

// PointAtMetadata passes METADATA on to an SDK that reads the usual variable; empty, the SDK is told nothing.
func PointAtMetadata() {
	if where := os.Getenv("METADATA"); where != "" {
		if err := os.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", where); err != nil {
			panic(err)
		}
	}
}
