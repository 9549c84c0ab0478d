// Command kubectl is two programs for tests in one binary. The first argument
// says which of them this process is.
//
// kubectl is Kubernetes' own client: the library that the released binary is
// made of, at the version of the tests' API server.
//
// kubelet serves what an API server asks a node's kubelet for on behalf of
// kubectl exec, logs and port-forward. It runs no pod: see kubelet.go.
package main

import (
	"fmt"
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: kubectl kubectl|kubelet [argument...]")
		os.Exit(2)
	}
	program := os.Args[1]
	os.Args = append([]string{program}, os.Args[2:]...)
	switch program {
	case "kubectl":
		if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
			util.CheckErr(err)
		}
	case "kubelet":
		if err := kubelet(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "unknown program %q: kubectl or kubelet\n", program)
		os.Exit(2)
	}
}
