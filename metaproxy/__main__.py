"""The commands of metaproxy."""
