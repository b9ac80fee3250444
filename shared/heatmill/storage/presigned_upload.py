"""An object that somebody else is to write, and what the store is told of it beforehand."""

from base64 import b64encode
from dataclasses import dataclass


@dataclass(frozen=True)
class PresignedUpload:
    """What somebody else is to write."""

    sha256: str
    size: int
    content_type: str

    @property
    def checksum(self) -> str:
        """The sha256 as S3 writes it."""
        return b64encode(bytes.fromhex(self.sha256)).decode()

    @property
    def params(self) -> dict[str, str | int]:
        """What boto3 signs."""
        return {"ContentLength": self.size, "ContentType": self.content_type, "ChecksumSHA256": self.checksum}

    @property
    def headers(self) -> dict[str, str]:
        """What has to be sent with it, since a presigned URL's signature covers it."""
        return {
            "Content-Type": self.content_type,
            "Content-Length": str(self.size),
            "x-amz-checksum-sha256": self.checksum,
        }
