"""The cluster tests: a real API server with etcd, its harness, and the suites that run against it."""
