"""Small servers that stand where the network begins."""
