"""A node, its pods and the metadata service behind it, made of the kernel's own network namespaces."""
