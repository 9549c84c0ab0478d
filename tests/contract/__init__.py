"""Real SDKs against a real listener."""
