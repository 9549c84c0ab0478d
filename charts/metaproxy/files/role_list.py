"""Asks the metadata address for the role list as any pod does, shows the answer, and says who gave it."""

import json
import sys
import time
import urllib.error
import urllib.request

URL = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
TRIES, PAUSE, PATIENCE = 10, 3.0, 5.0
OK = 200


def ask() -> tuple[int, str]:
    """Status and body of one answer. No proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(URL, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")
    except OSError as error:
        return 0, str(error)


def verdict(status: int, body: str, role: str) -> str:
    """Why the answer is not as it should be; empty when it is."""
    if role:
        told = (status, body.strip()) == (OK, role.rpartition("/")[2])
        return "" if told else f"the pod's role is {role}, and it was not told so"
    if status == OK:
        return "a pod without a role was told one: is it the node's? then the redirect does not hold here"
    try:
        code = json.loads(body)["code"]
    except (ValueError, KeyError, TypeError):
        return "this is no answer of metaproxy"
    return "" if code == "NoRole" else f"a pod without a role is refused as {code}, not as NoRole"


def main() -> int:
    """The exit code."""
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    for number in range(TRIES):
        status, body = ask()
        print(f"{URL}: {status} {body.strip()}", flush=True)
        why = verdict(status, body, role)
        if not why:
            print("metaproxy answers as it should")
            return 0
        if status == OK:
            break
        if number + 1 < TRIES:
            time.sleep(PAUSE)
    print(why)
    return 1


sys.exit(main())
