"""Asks the metadata address for the role list as any pod does, shows the answer, and says who gave it."""

import json
import sys
import time
import urllib.error
import urllib.request

URL = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
TRIES, PAUSE, PATIENCE = 10, 3.0, 5.0
OK, REFUSED = 200, (403, 404)


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


def verdict(status: int, body: str, role: str, default: str) -> str:
    """Why the answer is not as it should be; empty when it is. `default`: what pods that ask for no role are given."""
    if role:
        return (
            "" if (status, body.strip()) == (OK, _name(role)) else f"the pod's role is {role}, and it was not told so"
        )
    if status == OK:
        theirs = default and body.strip() == _name(default)
        return (
            ""
            if theirs
            else "a pod without a role was told one: is it the node's? then the redirect does not hold here"
        )
    try:
        code = json.loads(body)["code"]
    except (ValueError, KeyError, TypeError):
        return "this is no answer of metaproxy"
    refused = status in REFUSED if default else code == "NoRole"
    return "" if refused else f"a pod without a role is refused as {code}"


def _name(role: str) -> str:
    return role.rpartition("/")[2]


def main() -> int:
    """The exit code."""
    role, default = [*sys.argv[1:], "", ""][:2]
    for number in range(TRIES):
        status, body = ask()
        print(f"{URL}: {status} {body.strip()}", flush=True)
        why = verdict(status, body, role, default)
        if not why:
            print("metaproxy answers as it should")
            return 0
        if status == OK:
            break
        if number + 1 < TRIES:
            time.sleep(PAUSE)
    print(why)
    return 1


if __name__ == "__main__":
    sys.exit(main())
