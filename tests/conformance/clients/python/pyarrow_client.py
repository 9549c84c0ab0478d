"""The C++ SDK, as it is in pyarrow."""

import os

import steps
from pyarrow import fs

made: list[fs.S3FileSystem] = []


def prove() -> str:
    """A look at an object. The filesystem is made with the first call: making it asks for the region."""
    if not made:
        made.append(fs.S3FileSystem(endpoint_override=os.environ["S3_URL"].removeprefix("http://"), scheme="http"))
    if made[0].get_file_info("proof/proof").size is None:
        raise FileNotFoundError("proof/proof")
    return ""


steps.run(prove)
