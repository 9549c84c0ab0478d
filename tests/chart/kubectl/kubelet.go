package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"
	constants "k8s.io/apimachinery/pkg/util/remotecommand"
	client "k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubelet/pkg/cri/streaming/portforward"
	"k8s.io/kubelet/pkg/cri/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const (
	idle     = 10 * time.Minute
	creation = 30 * time.Second
)

// node answers for a node's pods: by a program, because the test knows how a
// container of its is entered and what it printed.
type node struct {
	program string
}

// kubelet listens where the first argument says, with the certificate and key
// of the second and third, and asks the program that is the fourth:
//
//	PROGRAM exec NAMESPACE POD CONTAINER COMMAND...
//	PROGRAM logs NAMESPACE POD CONTAINER [previous]
//	PROGRAM port NAMESPACE POD PORT
//
// Of the last one standard input and output are the forwarded connection.
// It lives as long as its standard input, as the API server of the tests does.
func kubelet(arguments []string) error {
	if len(arguments) != 4 {
		return errors.New("usage: kubelet ADDRESS CERTIFICATE KEY PROGRAM")
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	n := node{program: arguments[3]}
	routes := http.NewServeMux()
	routes.HandleFunc("/exec/{namespace}/{pod}/{container}", n.exec)
	routes.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", n.logs)
	routes.HandleFunc("/portForward/{namespace}/{pod}", n.portForward)
	listener, err := net.Listen("tcp", arguments[0])
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	return http.ServeTLS(listener, routes, arguments[1], arguments[2])
}

func (n node) exec(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, inside{n, r.PathValue("namespace")}, r.PathValue("pod"), "", r.PathValue("container"),
		r.URL.Query()["command"], options, idle, creation, constants.SupportedStreamingProtocols)
}

// inside runs commands in containers of a namespace's pods.
type inside struct {
	node
	namespace string
}

func (i inside) ExecInContainer(ctx context.Context, pod string, _ types.UID, container string, command []string,
	in io.Reader, out, problems io.WriteCloser, _ bool, _ <-chan client.TerminalSize, _ time.Duration) error {
	words := append([]string{"exec", i.namespace, pod, container}, command...)
	process := exec.CommandContext(ctx, i.program, words...)
	process.Stdin, process.Stdout, process.Stderr = in, out, problems
	err := process.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

func (n node) logs(w http.ResponseWriter, r *http.Request) {
	words := []string{"logs", r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")}
	if previous, _ := strconv.ParseBool(r.FormValue("previous")); previous {
		words = append(words, "previous")
	}
	said, err := exec.CommandContext(r.Context(), n.program, words...).Output()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(said)
}

func (n node) portForward(w http.ResponseWriter, r *http.Request) {
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, ports{n, r.PathValue("namespace")}, r.PathValue("pod"), "", options, idle,
		creation, portforward.SupportedProtocols)
}

// ports leads to ports of a namespace's pods.
type ports struct {
	node
	namespace string
}

func (p ports) PortForward(ctx context.Context, pod string, _ types.UID, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	process := exec.CommandContext(ctx, p.program, "port", p.namespace, pod, strconv.Itoa(int(port)))
	process.Stdin, process.Stdout, process.Stderr = stream, stream, os.Stderr
	// What the client still sends is of no use when the pod's side has ended.
	process.WaitDelay = time.Second
	return process.Run()
}
