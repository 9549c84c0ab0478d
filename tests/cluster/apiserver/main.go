// Command cluster is a real Kubernetes API server and the etcd below it in one
// binary, for tests. The first argument says which of the two this process is;
// everything after it goes to that program unchanged.
//
// The process lives as long as its standard input: whoever starts it holds the
// other end of a pipe, and however that one ends, this one ends too.
package main

import (
	"fmt"
	"io"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	// Metrics and the JSON log format register themselves, as in the released binary.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: cluster kube-apiserver|etcd [option...]")
		os.Exit(2)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	program := os.Args[1]
	os.Args = append([]string{program}, os.Args[2:]...)
	switch program {
	case "kube-apiserver":
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	case "etcd":
		etcdmain.Main(os.Args)
	default:
		fmt.Fprintf(os.Stderr, "unknown program %q: kube-apiserver or etcd\n", program)
		os.Exit(2)
	}
}
