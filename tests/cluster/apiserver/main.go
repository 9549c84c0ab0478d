// Command cluster is the control plane of the tests in one binary: a real
// Kubernetes API server, the etcd below it, the scheduler, and those controllers
// that a DaemonSet's life needs. The first argument says which of them this
// process is; everything after it goes to that program unchanged.
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
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	// Metrics and the JSON log format register themselves, as in the released binary.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

const programs = "kube-apiserver, etcd, kube-scheduler or controllers"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintf(os.Stderr, "usage: cluster PROGRAM [option...]; PROGRAM is %s\n", programs)
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
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "controllers":
		if err := control(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "unknown program %q: %s\n", program, programs)
		os.Exit(2)
	}
}
