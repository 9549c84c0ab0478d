"""What the Makefile calls beyond other people's tools."""
