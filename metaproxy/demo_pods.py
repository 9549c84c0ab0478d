"""What the demo consists of: an account, its roles and whom they trust, pods that are loopback addresses.

Knows: these as IAM and Kubernetes write them.
Must not know: who serves them, or asks.
"""

from typing import Any

ACCOUNT = "111122223333"
REGION = "us-east-1"
NODES = f"arn:aws:iam::{ACCOUNT}:role/demo-nodes"
OTHER_NODES = f"arn:aws:iam::{ACCOUNT}:role/other-cluster-nodes"
SEPARATE = f"arn:aws:iam::{ACCOUNT}:role/metaproxy"
BASE = f"arn:aws:iam::{ACCOUNT}:role/"
EXTERNAL_ID = "shop-4711"
LIST = "/latest/meta-data/iam/security-credentials/"

PODS = f"""\
# Each pod is a loopback address: what is asked from there is asked by that pod.
kind: Namespace
metadata: {{name: shop, annotations: {{iam.amazonaws.com/permitted: '{BASE}shop-.*'}}}}
---
kind: Namespace
metadata: {{name: lab, annotations: {{iam.amazonaws.com/allowed-roles: '["lab-*"]'}}}}
---
kind: Pod
metadata: {{namespace: shop, name: web, annotations: {{iam.amazonaws.com/role: shop-web}}}}
status: {{phase: Running, podIP: 127.0.0.2}}
---
kind: Pod
metadata: {{namespace: shop, name: orders, annotations: {{iam.amazonaws.com/role: shop-orders}}}}
status: {{phase: Running, podIP: 127.0.0.3}}
---
kind: Pod
metadata:
  namespace: shop
  name: audit
  annotations: {{iam.amazonaws.com/role: shop-audit, iam.amazonaws.com/external-id: {EXTERNAL_ID}}}
status: {{phase: Running, podIP: 127.0.0.4}}
---
kind: Pod
metadata: {{namespace: shop, name: reports, annotations: {{iam.amazonaws.com/role: shop-reports}}}}
status: {{phase: Running, podIP: 127.0.0.5}}
---
kind: Pod
metadata: {{namespace: lab, name: curious, annotations: {{iam.amazonaws.com/role: shop-web}}}}
status: {{phase: Running, podIP: 127.0.0.6}}
---
kind: Pod
metadata: {{namespace: lab, name: plain}}
status: {{phase: Running, podIP: 127.0.0.7}}
"""


def trust(*principals: str, external_id: str = "") -> dict[str, Any]:
    """A trust policy as IAM has them."""
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"AWS": list(principals)},
    }
    if external_id:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    return {"Version": "2012-10-17", "Statement": [statement]}


ROLES = {
    NODES: trust("*"),
    OTHER_NODES: trust("*"),
    SEPARATE: trust(NODES, OTHER_NODES),
    f"{BASE}shop-web": trust(NODES),
    f"{BASE}shop-orders": trust(SEPARATE),
    f"{BASE}shop-audit": trust(NODES, external_id=EXTERNAL_ID),
    f"{BASE}shop-reports": trust(f"arn:aws:iam::{ACCOUNT}:role/somebody-else"),
}
