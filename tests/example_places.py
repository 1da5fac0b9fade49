"""Places where a ledger can lie: a folder, and a bucket of a server that speaks S3 on this machine."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "example",
    "AWS_SECRET_ACCESS_KEY": "example",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """Yields the URI of a bucket, followed by its query."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        host, port = server.get_host_and_port()
        query = f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
        files, _ = FileSystem.from_uri(f"s3://bucket{query}&allow_bucket_creation=true")
        files.create_dir("bucket")
        yield f"s3://bucket{query}"
    server.stop()


def below(bucket: str) -> str:
    """Returns the URI of a new prefix in a bucket."""
    head, _, query = bucket.partition("?")
    return f"{head}/{uuid.uuid4().hex[:8]}?{query}"


def folder_or_prefix(kind: str, folder: Path, bucket: str) -> Path | str:
    return folder / "ledger" if kind == "folder" else below(bucket)
