"""The page of thumbnails: whole in itself, and what it shows is what was found."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from trtkit.video.answers import MOST_THUMBNAILS, Answer, gallery
from trtkit.video.detections import Box


class Page(HTMLParser):
    """Its tags with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def crop(number: int) -> bytes:
    return b"JPEG of %d" % number


def seen(
    start: float, end: float, *objects: int, camera: str = "gate", when: str = "then"
) -> Answer:
    return Answer(
        "car",
        camera,
        f"{camera}.mp4",
        start,
        end,
        when,
        when,
        (),
        (),
        0.75,
        objects or (1,),
        (objects or (1,))[0],
    )


def pictures(page: Page) -> list[bytes]:
    found = []
    for image in page.all("img"):
        kind, data = str(image["src"]).split(",", 1)
        assert kind == "data:image/jpeg;base64"
        found.append(base64.b64decode(data, validate=True))
    return found


def bars(page: Page) -> list[tuple[str, float, float]]:
    """Where each leads, and its left end and width in percent."""
    found = []
    for link in page.all("a"):
        match = re.fullmatch(r"left:([\d.]+)%;width:([\d.]+)%", str(link["style"]))
        assert match
        found.append((str(link["href"]), float(match[1]), float(match[2])))
    return found


def test_a_path_is_the_centres_of_its_first_and_last_box() -> None:
    boxes = (Box(100, 300, 40, 80), Box(0, 0, 9, 9), Box(600, 40, 20, 80))
    assert replace(seen(0, 1), boxes=boxes).path == "120,340 > 610,80"
    assert seen(0, 1).path == ""


def test_nothing_is_loaded_from_anywhere() -> None:
    text = gallery("car", [seen(0, 1, 1, 2)], crop, "1 appearance")
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    page = Page(text)
    assert not page.open
    assert not page.all("script")
    assert not page.all("link")
    assert all(str(image["src"]).startswith("data:") for image in page.all("img"))
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
    assert page.all("meta") == [{"charset": "utf-8"}]


def test_names_are_shown_as_they_are() -> None:
    evil = "<script>\"&'</script>"
    text = gallery(evil, [seen(0, 1, camera=evil + "1", when=evil + "2")], crop, evil + "3")
    assert "<script" not in text
    page = Page(text)
    assert not page.all("script")
    assert page.text.count(evil) == 2  # title and heading
    times = f"{evil}2 to {evil}2"
    for text in (evil + "1", times, evil + "3"):
        assert text in page.text
    assert page.all("a")[0]["title"] == times


def test_bars_lie_where_they_were_in_percent() -> None:
    page = Page(gallery("car", [seen(10, 12), seen(15, 20), seen(20, 30)], crop, ""))
    assert [(left, width) for _, left, width in bars(page)] == [(0, 10), (25, 25), (50, 50)]
    assert "10.0 s" in page.text
    assert "30.0 s" in page.text


def test_the_end_is_that_of_the_one_that_ends_last() -> None:
    page = Page(gallery("car", [seen(0, 100), seen(10, 20)], crop, ""))
    assert [(left, width) for _, left, width in bars(page)] == [(0, 100), (10, 10)]


@pytest.mark.parametrize("at", [0.0, 5.0])
def test_a_single_moment_has_a_bar(at: float) -> None:
    assert bars(Page(gallery("car", [seen(at, at)], crop, ""))) == [("#a0-0", 0, 0)]


def test_each_bar_leads_to_its_pictures() -> None:
    found = [seen(5, 6, 50), seen(1, 2, 10), seen(3, 4, 30, camera="yard")]
    page = Page(gallery("car", found, crop, ""))
    places = [str(item["id"]) for item in page.all("li")]
    assert [link for link, _, _ in bars(page)] == [f"#{place}" for place in places]
    assert len(set(places)) == 3
    # Cameras by name, and each one's by time.
    assert pictures(page) == [crop(10), crop(50), crop(30)]
    assert [text for text in page.text if text in ("gate", "yard")] == ["gate", "yard"]
    # Each camera has a line of its own.
    assert [left for _, left, _ in bars(page)] == [0, 80, 0]


def test_thumbnails_are_the_crops_and_the_page_says_how_many_more_there_are() -> None:
    text = gallery("car", [seen(0, 1, *range(MOST_THUMBNAILS + 3))], crop, "")
    assert pictures(Page(text)) == [crop(number) for number in range(MOST_THUMBNAILS)]
    assert "and 3 more" in text
    assert "more</span>" not in gallery("car", [seen(0, 1, *range(MOST_THUMBNAILS))], crop, "")


def test_a_crop_that_is_missing_is_left_out() -> None:
    text = gallery("car", [seen(0, 1, 1, 2, 3)], lambda n: None if n == 2 else crop(n), "")
    assert pictures(Page(text)) == [crop(1), crop(3)]


def test_what_is_said_of_each() -> None:
    page = Page(gallery("car", [seen(0, 1, when="noon")], crop, "1 appearance"))
    assert "noon to noon" in page.text
    assert "confidence 0.750" in page.text
    assert "1 appearance" in page.text


def test_nothing_found_is_a_page_that_says_so() -> None:
    page = Page(gallery("car", [], crop, "0 appearances"))
    assert "0 appearances" in page.text
    assert not page.all("img")
    assert not page.open


def test_files_of_one_camera_have_lines_of_their_own() -> None:
    morning = seen(0, 1, camera="gate")
    evening = replace(morning, source="evening.mp4")
    page = Page(gallery("car", [morning, evening], crop, ""))
    assert [text for text in page.text if "gate, " in text] == [
        "gate, evening.mp4", "gate, gate.mp4",
    ]  # fmt: skip
