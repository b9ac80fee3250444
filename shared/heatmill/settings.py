"""What an operator sets, read once from `HEATMILL_*` in each entry point and handed down as values."""

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One frozen set of values for API, control worker and explain worker.

    A variable that is set to nothing counts as not set. S3 credentials come from `AWS_ACCESS_KEY_ID` and
    `AWS_SECRET_ACCESS_KEY`, or whatever else boto3 finds by itself.
    """

    model_config = SettingsConfigDict(
        env_prefix="HEATMILL_", env_ignore_empty=True, frozen=True, extra="ignore", populate_by_name=True
    )

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Broker and job state; of `rediss://` the certificate is verified."
    )
    s3_endpoint: str | None = Field(None, description="Empty for AWS.")
    s3_public_endpoint: str | None = Field(None, description="As callers reach the store; in presigned URLs.")
    s3_region: str | None = Field(
        None,
        validation_alias=AliasChoices("HEATMILL_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
        description="Also by AWS_REGION, AWS_DEFAULT_REGION, or boto3's profile; us-east-1 where none is set.",
    )
    bucket: str = "heatmill"
    source_prefixes: tuple[str, ...] = Field(
        (), description="JSON list of what jobs may read, as `s3://bucket/prefix`; `{tenant}` stands for the caller."
    )
    models_file: Path | None = Field(None, description="The operator's models.toml.")
    methods_file: Path | None = Field(
        None, description="Methods of other packages, as `python -m heatmill_workers.export FILE` writes them."
    )
    api_keys_file: Path | None = Field(
        None,
        description="JSON object of key sha256 -> tenant, read again when it changes; without it everyone is the "
        "tenant `default`.",
    )
    access_log: bool = Field(True, description="The API writes a JSON line for each request.")

    max_body_bytes: Annotated[int, Field(gt=0)] = 32 * 2**20
    max_json_bytes: Annotated[int, Field(gt=0, description="Of the JSON in a body.")] = 8 * 2**20
    max_upload_files: Annotated[int, Field(gt=0)] = 64
    max_held_bytes: Annotated[int, Field(gt=0, description="Of all request bodies that one API process holds.")] = 2**29
    max_connections: Annotated[int, Field(gt=0, description="Of one API process.")] = 2000
    max_connections_of_address: Annotated[
        int, Field(gt=0, description="Of one client to one API process; those through a proxy are the proxy's.")
    ] = 500
    max_image_bytes: Annotated[int, Field(gt=0)] = 50 * 2**20
    max_image_pixels: Annotated[int, Field(gt=0)] = 50_000_000
    presigned_seconds: Annotated[int, Field(gt=0)] = 900

    result_cache: bool = Field(True, description="Keep results by content, and let later jobs take them.")
    retention_days: Annotated[float, Field(gt=0)] | None = Field(
        None, description="A job and all its objects are deleted this long after its end; empty keeps them."
    )

    shard_seconds: Annotated[float, Field(gt=0, description="Work per shard; a priority cannot cut in sooner.")] = 15.0
    seconds_per_pass: Annotated[float, Field(gt=0, description="Until a worker has measured it.")] = 0.03
    window_shards: Annotated[
        int, Field(gt=0, description="Shards in the queue or at work; two for each living worker where that is more.")
    ] = 8
    queue_patience_seconds: Annotated[float, Field(gt=0, description="A shard sent and not claimed is sent again.")] = (
        120.0
    )
    claim_seconds: Annotated[float, Field(gt=0, description="A claim without a heartbeat runs out.")] = 30.0
    consumer_patience_seconds: Annotated[
        float, Field(gt=0, description="A worker that takes nothing for so long while messages wait is started again.")
    ] = 120.0
    timer_seconds: Annotated[float, Field(gt=0, description="Between two repairs.")] = 3.0
    max_attempts: Annotated[
        int, Field(gt=0, description="Deaths of a worker over one shard, twice as many where items are found out.")
    ] = 3
    shard_limit_seconds: Annotated[
        int,
        Field(
            gt=0,
            description="A worker gives a shard back after two thirds of it, the parts that are done apart. A group of "
            "images that takes all of it by itself ends the worker's child.",
        ),
    ] = 600

    weights_dir: Path = Field(
        Path("~/.cache/heatmill/weights"), description="Where workers keep weights that models.toml names by URI."
    )
    model_memory_bytes: Annotated[int, Field(gt=0)] = 4 * 2**30
    decode_threads: Annotated[int, Field(gt=0)] = 2
    alive_file: Path | None = Field(
        None, description="A worker touches it every few seconds, for `worker-alive`; none where empty."
    )
    device: str | None = Field(None, description="`cpu`, `cuda`, `cuda:1`; found by itself where empty.")
