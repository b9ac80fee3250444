"""What is stored of models: the facts that their proofs found, and which of them are a model's newest."""

import hashlib
import json
from pathlib import Path

from heatmill.catalogue.models import ModelSpec
from heatmill.errors import RecordDamaged, RecordTooNew
from heatmill.jobs.documents import decode, encode
from heatmill.schemas import ModelFacts, Schema, Sha256
from heatmill.storage import keys
from heatmill.storage.bucket import ObjectMissing, S3Storage

JSON = "application/json"


class NewestFacts(Schema):
    """models/names/<name>.json: which facts are a model's newest, and of which entry in models.toml they are."""

    key: Sha256
    entry: Sha256


def entry_digest(spec: ModelSpec) -> str:
    """The sha256 of an entry in models.toml, without the folders that files lie in, which differ between machines."""
    names = {name: value.name for name, value in spec if isinstance(value, Path)}
    fields = spec.model_dump(mode="json") | names
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def store_facts(storage: S3Storage, spec: ModelSpec, facts: ModelFacts) -> None:
    """Write what the proof of a model found.

    Raises:
        StorageUnavailable: The store does not answer.
    """
    newest = NewestFacts(key=facts.key, entry=entry_digest(spec))
    storage.put(keys.model_facts(facts.key), facts.model_dump_json().encode(), JSON)
    storage.put(keys.newest_facts(spec.name), encode(newest), JSON)


def load_facts(storage: S3Storage, key: str) -> ModelFacts | None:
    """The facts of a key; None where there are none, or none of this version.

    Raises:
        StorageUnavailable: The store does not answer.
    """
    try:
        return decode(ModelFacts, keys.model_facts(key), storage.get(keys.model_facts(key)))
    except (ObjectMissing, RecordDamaged, RecordTooNew):
        return None


def load_newest_facts(storage: S3Storage, spec: ModelSpec) -> ModelFacts | None:
    """What a worker found when it last loaded the model as models.toml has it now; None before that.

    Raises:
        StorageUnavailable: The store does not answer.
    """
    try:
        newest = decode(NewestFacts, keys.newest_facts(spec.name), storage.get(keys.newest_facts(spec.name)))
    except (ObjectMissing, RecordDamaged, RecordTooNew):
        return None
    return load_facts(storage, newest.key) if newest.entry == entry_digest(spec) else None
