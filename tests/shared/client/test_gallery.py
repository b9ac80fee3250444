"""The page that shows what came of a job."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from heatmill.client.downloads import RESULTS, FetchedRow
from heatmill.client.gallery import MAX_ITEMS, write_gallery
from heatmill.schemas import Counts, ImageRead, Job, MethodRequest, Problem, Row, StoredPicture, Target

JOB = Job(
    id="1f",
    state="partly_failed",
    done=True,
    progress=1,
    counts=Counts(total=2, succeeded=1, failed=1),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    model="efficientnet_lite0",
    methods=(MethodRequest(name="saliency"),),
    priority="normal",
)


class Page(HTMLParser):
    """Texts, tags and what they refer to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.texts = html, list[str](), list[str]()
        self.references = list[str]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def fetched(item: str, index: int = 0, **more: object) -> FetchedRow:
    fields: dict[str, object] = {"method": "saliency", "rank": 0, "status": "succeeded", "files": {}}
    return FetchedRow.model_validate({"item": item, "index": index, **fields, **more})


def written(directory: Path, *rows: Row) -> Page:
    (directory / RESULTS).write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return Page(write_gallery(directory, JOB).read_text("utf-8"))


def heatmap(zero_index: int) -> StoredPicture:
    return StoredPicture(key="k", scale=1, zero_index=zero_index, box=(0, 0, 1, 1))


def test_each_item_is_shown_with_its_photo_its_class_and_its_checks(tmp_path: Path) -> None:
    page = written(
        tmp_path,
        fetched(
            "cup.png",
            target=Target(index=1, label="espresso", probability=0.843),
            checks={"steps": 50, "completeness_error": 0.1724},
            verdict="imprecise",
            files={"photo": "cup.png.photo.png", "overlay": "cup.png.saliency.0.overlay.png", "heatmap": "x.png"},
        ),
    )
    assert "espresso 84.3%" in page.texts
    assert "imprecise, completeness error 17.2%, steps 50" in page.texts
    assert page.references == ["cup.png.photo.png", "cup.png.saliency.0.overlay.png"]


def test_a_blank_heatmap_is_told_and_explained(tmp_path: Path) -> None:
    blank = written(tmp_path, fetched("a", method="grad_cam", verdict="blank", files={"overlay": "a.png"}))
    assert "blank" in blank.texts
    assert any(text.startswith("Blank: ") for text in blank.texts)
    assert not any(text.startswith("Blank: ") for text in written(tmp_path, fetched("a", verdict="ok")).texts)


def test_what_was_left_out_of_an_image_is_told_below_its_photo(tmp_path: Path) -> None:
    read = ImageRead(format="TIFF", size=(64, 48), notes=("page 1 of 2 was read", "a <b> profile"))
    page = written(tmp_path, fetched("a", image=read, files={"photo": "a.photo.png"}))
    assert "as the model saw it; page 1 of 2 was read; a <b> profile" in page.texts


def test_why_there_is_no_photo_is_said_in_its_place(tmp_path: Path) -> None:
    page = written(tmp_path, fetched("a", files={"heatmap": "a.png"}, photo_missing="it is <gone>"))
    assert "it is <gone>" in page.texts


def test_what_the_model_takes_the_baseline_for_is_said_in_words(tmp_path: Path) -> None:
    checks = {"logit_difference": 3.2, "baseline_class": "jigsaw puzzle", "baseline_probability": 0.3123}
    target = Target(index=1, label="espresso", probability=0.843)

    page = written(tmp_path, fetched("cup.png", target=target, checks=checks, verdict="ok", files={"heatmap": "x.png"}))

    assert "ok, logit difference 3.2, the baseline is jigsaw puzzle 31.2%" in page.texts


def test_nothing_of_a_caller_becomes_part_of_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    label = Target(index=1, label=evil, probability=0.5)
    page = written(tmp_path, fetched(evil, target=label, checks={evil: evil}, files={"heatmap": "a%20\"'é?#.png"}))
    assert "script" not in page.tags
    assert f"{evil} 50.0%" in page.texts
    assert [unquote(reference) for reference in page.references] == ["a%20\"'é?#.png"]


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = written(tmp_path, fetched("a", files={"overlay": "a.png"}))
    assert not re.search(r"https?:|//|@import|url\(", page.html)


def test_a_failed_item_says_why(tmp_path: Path) -> None:
    error = Problem(type="t", title="Image unreadable", detail="the file is damaged")
    failed = [fetched("a", status="failed", method=method, error=error) for method in ("saliency", "grad_cam")]
    assert written(tmp_path, *failed).texts.count("failed: the file is damaged") == 1
    assert {"no heatmap", "failed: the file is damaged"} <= set(written(tmp_path, fetched("a"), *failed).texts)


def test_classes_are_named_at_each_heatmap_where_there_are_more_than_one(tmp_path: Path) -> None:
    labels = [Target(index=number, label=label, probability=0.5) for number, label in enumerate(["cat", "dog"])]
    page = written(tmp_path, *(fetched("a", rank=rank, target=label) for rank, label in enumerate(labels)))
    assert {"cat 50.0%, dog 50.0%", "saliency: cat", "saliency: dog"} <= set(page.texts)


@pytest.mark.parametrize(("zero_index", "legend"), [(0, "matters much"), (128, "for the class")])
def test_the_colours_in_use_are_explained(tmp_path: Path, zero_index: int, legend: str) -> None:
    texts = written(tmp_path, fetched("a", heatmap=heatmap(zero_index))).texts
    assert [text for text in texts if text in {"matters much", "for the class"}] == [legend]


def test_a_regression_s_value_is_told_and_no_probability(tmp_path: Path) -> None:
    value = Target(index=0, label="age", value=41.3728)
    page = written(tmp_path, fetched("a", target=value, heatmap=heatmap(128)))
    assert {"age 41.37", "lowers the value", "raises the value"} <= set(page.texts)
    assert "for the class" not in page.texts


def test_a_large_job_is_cut_and_the_page_says_so(tmp_path: Path) -> None:
    page = written(tmp_path, *(fetched(str(index), index) for index in range(MAX_ITEMS + 3)))
    assert page.tags.count("section") == MAX_ITEMS
    assert "3 more items are not shown here." in page.texts
