package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
	"k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	"k8s.io/kubernetes/pkg/controller/serviceaccount"
)

// As many workers as the released controller manager gives to each.
const (
	daemonWorkers  = 2
	garbageWorkers = 20
	otherWorkers   = 1
)

// How often the garbage collector looks for kinds that are new.
const discoveryPeriod = 30 * time.Second

// Failed pods are made again after this long at first and at most.
const (
	firstBackoff = time.Second
	maxBackoff   = 15 * time.Minute
)

// control runs the controllers themselves, as they are in Kubernetes, without
// the manager around them: that would double what has to be compiled, and
// whatever else it runs here would be paid for by every test.
func control(arguments []string) error {
	flags := flag.NewFlagSet("controllers", flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "how the API server is reached, with all rights")
	authority := flags.String("root-ca-file", "", "the certificate that pods are given to know the API server by")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	rootCA, err := os.ReadFile(*authority)
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.UserAgent = "controllers"
	config.QPS, config.Burst = 100, 200 // the default of 5 would be what a test waits for
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}

	ctx := context.Background()
	shared := informers.NewSharedInformerFactory(client, 0)
	core, apps := shared.Core().V1(), shared.Apps().V1()

	daemonSets, err := daemon.NewDaemonSetsController(
		ctx, apps.DaemonSets(), apps.ControllerRevisions(), core.Pods(), core.Nodes(), client,
		flowcontrol.NewBackOff(firstBackoff, maxBackoff),
	)
	if err != nil {
		return fmt.Errorf("DaemonSets: %w", err)
	}
	accounts, err := serviceaccount.NewServiceAccountsController(
		core.ServiceAccounts(), core.Namespaces(), client, serviceaccount.DefaultServiceAccountsControllerOptions(),
	)
	if err != nil {
		return fmt.Errorf("ServiceAccounts: %w", err)
	}
	certificates, err := rootcacertpublisher.NewPublisher(core.ConfigMaps(), core.Namespaces(), client, rootCA)
	if err != nil {
		return fmt.Errorf("root certificates: %w", err)
	}

	untyped := metadatainformer.NewSharedInformerFactory(objects, 0)
	both := informerfactory.NewInformerFactory(shared, untyped)
	started := make(chan struct{})
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	garbage, err := garbagecollector.NewGarbageCollector(
		ctx, client, objects, mapper, garbagecollector.DefaultIgnoredResources(), both, started,
	)
	if err != nil {
		return fmt.Errorf("garbage collector: %w", err)
	}

	go daemonSets.Run(ctx, daemonWorkers)
	go accounts.Run(ctx, otherWorkers)
	go certificates.Run(ctx, otherWorkers)
	go garbage.Run(ctx, garbageWorkers, discoveryPeriod)
	go garbage.Sync(ctx, client.Discovery(), discoveryPeriod)
	both.Start(ctx.Done())
	close(started)
	select {}
}
