"""The container images: built as an operator builds them, and run as a kubelet runs them."""
