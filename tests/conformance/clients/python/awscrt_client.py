"""awscrt: its default chain of providers, signing a request to S3."""

import os
import urllib.request

import steps
from awscrt import auth, http, io

URL = f"{os.environ['S3_URL']}/proof/proof"
HOST = URL.split("/")[2]
bootstrap = io.ClientBootstrap.get_or_create_static_default()
provider = auth.AwsCredentialsProvider.new_default_chain(bootstrap)


def prove() -> str:
    """GetObject, with the headers that the signer made."""
    credentials = provider.get_credentials().result()
    request = http.HttpRequest("GET", "/proof/proof", http.HttpHeaders([("Host", HOST)]))
    config = auth.AwsSigningConfig(
        algorithm=auth.AwsSigningAlgorithm.V4,
        signature_type=auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
        credentials_provider=provider,
        region=os.environ.get("AWS_REGION", "us-east-1"),
        service="s3",
        signed_body_header_type=auth.AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
    )
    signed = auth.aws_sign_request(request, config).result()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(URL, headers=dict(signed.headers))) as answer:
        answer.read()
    return str(credentials.access_key_id)


steps.run(prove)
