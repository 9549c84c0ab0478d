"""One part with fakes at its boundaries, in virtual time where it waits."""
