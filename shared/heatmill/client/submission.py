"""What a caller gives to `Client.submit`, turned into the body of `POST /v1/jobs`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from heatmill.client.local_items import check_named_once, file_item, file_items, name_images
from heatmill.client.uploads import OnRefused, OnUpload, is_uri
from heatmill.errors import InvalidRequest, TooLarge
from heatmill.printable import is_utf8, printable
from heatmill.schemas import MAX_INLINE_ITEMS, ItemRequest, Layout, MapRequest, MethodRequest, Priority
from heatmill.schemas.item_ids import check_distinct, free_id

Images = Mapping[str, Path | str] | Sequence[Path | str]


class SubmitOptions(TypedDict, total=False):
    """What `Client.submit` takes beside model, methods and images.

    `target` is for items that name none; `layout` "webdataset" stores one tar per part of a shard, in which the rows
    name byte ranges, "objects" each heatmap and attribution by itself; `map` asks for a map of all items; `previews`
    False stores nothing of what the model saw of the images, without which there are no overlays; `cache`
    False makes everything anew, where results that earlier jobs made of the same images in the same way would be
    taken; `idempotency_key` is chosen by the client where none is given; `on_upload` is told (images stored so far,
    all images), and `on_refused` (file, reason) of one that the service does not store, say for its size: its item
    is part of the job and fails there.
    """

    target: int | str | None
    top_k: int
    layout: Layout
    priority: Priority
    metadata: Mapping[str, str]
    map: MapRequest | None
    previews: bool
    cache: bool
    idempotency_key: str
    on_upload: OnUpload | None
    on_refused: OnRefused | None


def list_items(images: Images, items: Iterable[ItemRequest], target: int | str | None) -> list[ItemRequest]:
    """All items of a submission, each with its target.

    Args:
        images: Files on this machine; a mapping gives each its item id, else see `name_images`.
        items: More items.
        target: Of those that name none.

    Raises:
        InvalidRequest: An item id cannot be one, two items have one, or two images are one file, and the message names
            both; the images are no list.
        TooLarge: More items than a request holds.
    """
    listed = [*_of_images(images), *items]
    if len(listed) > MAX_INLINE_ITEMS:
        raise TooLarge(f"{len(listed)} items; a request holds {MAX_INLINE_ITEMS}, for more give an s3:// source")
    check_distinct((item.id, item.image) for item in listed)
    return [item.model_copy(update={"target": target}) if item.target is None else item for item in listed]


def request_body(
    model: str, methods: Iterable[str | MethodRequest], source: str | None, asked_map: MapRequest | None = None
) -> dict[str, Any]:
    """The body without items.

    Raises:
        InvalidRequest: The methods are no list.
    """
    _check_list("methods", methods)
    body: dict[str, Any] = {"model": model, "methods": [_method(method) for method in methods]}
    if asked_map is not None:
        body["map"] = asked_map.model_dump(mode="json")
    return body if source is None else {**body, "source": {"uri": source}}


def sent_items(items: Iterable[ItemRequest], uris: Iterator[str]) -> list[dict[str, Any]]:
    """The items as they are sent, each local image under the next of the URIs."""
    return [
        item.model_dump(mode="json", exclude_none=True, exclude={"image"})
        | {"image": item.image if is_uri(item.image) else next(uris)}
        for item in items
    ]


def _of_images(images: Images) -> list[ItemRequest]:
    if isinstance(images, Mapping):
        taken = set(filter(is_utf8, images))
        return [file_item(name if is_utf8(name) else free_id(name, taken), Path(path)) for name, path in images.items()]
    _check_list("images", images)
    paths = list(images)
    check_named_once((Path(path), str(path)) for path in paths)
    return file_items(name_images([Path(path) for path in paths]))


def _check_list(field: str, given: object) -> None:
    """Refuse a single name in place of a list: a text is a list of letters, too."""
    if isinstance(given, str | bytes | Path):
        shown = printable(given.decode(errors="surrogateescape") if isinstance(given, bytes) else str(given))
        raise InvalidRequest(f"`{field}` is a list; {shown!r} is a single one: give [{shown!r}]")


def _method(method: str | MethodRequest) -> dict[str, Any]:
    return {"name": method} if isinstance(method, str) else method.model_dump(mode="json")
