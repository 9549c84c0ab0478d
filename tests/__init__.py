"""The specification of metaproxy."""
