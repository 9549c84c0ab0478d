"""The chart: rendered, checked, installed into a real API server, and its containers' commands run."""
