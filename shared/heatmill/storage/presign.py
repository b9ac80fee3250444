"""Many presigned URLs of one bucket at little cost.

botocore works out endpoint, addressing and credentials anew for each URL. They are the same for all of a page, so it
makes the first one, and of the others only what differs is made here: the path and the signature over it (AWS Signature
Version 4, query parameters). The first URL is made both ways, and where the two differ botocore makes them all.
"""

import hashlib
import hmac
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

from heatmill.storage.s3_client import credentials_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Signer = Callable[[str], str]
"""The URL that reads an object, by its key."""

TRIAL = "trial"
SIGNATURE = "&X-Amz-Signature="


def signer(client: "S3Client", bucket: str, seconds: int) -> Signer:
    """Signs for a while from now; for one page or stream, since credentials may be replaced."""

    def slow(key: str) -> str:
        return client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=seconds)

    known = slow(TRIAL)
    credentials = credentials_of(client)
    fast = _signer(known, credentials.secret_key) if credentials else slow
    return fast if fast(TRIAL) == known else slow


def _signer(known: str, secret: str) -> Signer:
    """Signs as a URL is signed that is known."""
    url = urlsplit(known)
    origin, folder = f"{url.scheme}://{url.netloc}", url.path.removesuffix(TRIAL)
    query = url.query.partition(SIGNATURE)[0]
    fields = dict(parse_qsl(query))
    scope = fields["X-Amz-Credential"].partition("/")[2]
    stated = "&".join(sorted(query.split("&")))
    key = reduce(_hmac, scope.split("/"), f"AWS4{secret}".encode())
    head = f"AWS4-HMAC-SHA256\n{fields['X-Amz-Date']}\n{scope}\n"

    def sign(name: str) -> str:
        path = folder + quote(name, safe="/~")
        asked = f"GET\n{path}\n{stated}\nhost:{url.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
        signature = _hmac(key, head + hashlib.sha256(asked.encode()).hexdigest()).hex()
        return f"{origin}{path}?{query}{SIGNATURE}{signature}"

    return sign


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
