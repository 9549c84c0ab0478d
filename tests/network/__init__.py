"""What needs root and a kernel's own network namespaces."""
