"""boto3: one session and one client."""

import os
from typing import Any

import boto3
import steps

made: list[Any] = []


def prove() -> str:
    """GetCallerIdentity."""
    if not made:
        session = boto3.Session()
        made.extend((session, session.client("sts", endpoint_url=os.environ["STS_URL"])))
    session, client = made
    client.get_caller_identity()
    credentials = session.get_credentials()
    assert credentials is not None
    return str(credentials.access_key)


steps.run(prove, made.clear)
