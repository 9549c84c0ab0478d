"""metaproxy answers pods on the EC2 metadata address with credentials of exactly the IAM role they are entitled to."""

__version__ = "0.1.0"
