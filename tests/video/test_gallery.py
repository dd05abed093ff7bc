"""The page of thumbnails: whole in itself, and what it shows is what was found."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from trtkit.video.answers import MOST_THUMBNAILS, Answer
from trtkit.video.answers import gallery as page_of
from trtkit.video.detections import Box
from trtkit.video.scenes import PathView


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


def crops(number: int) -> list[bytes]:
    return [crop(number)]


def gallery(label, answers, crops=crops, summary="", **more):
    parts = {"scenes": {}, "clips": {}, "notes": {}, **more}
    return page_of(label, answers, crops, summary, **parts)


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
    text = gallery("car", [seen(0, 1, 1, 2)], crops, "1 appearance")
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
    text = gallery(evil, [seen(0, 1, camera=evil + "1", when=evil + "2")], crops, evil + "3")
    assert "<script" not in text
    page = Page(text)
    assert not page.all("script")
    assert page.text.count(evil) == 2  # title and heading
    times = f"{evil}2 to {evil}2"
    for text in (evil + "1", times, evil + "3"):
        assert text in page.text
    assert page.all("a")[0]["title"] == times


def test_bars_lie_where_they_were_in_percent() -> None:
    page = Page(gallery("car", [seen(10, 12), seen(15, 20), seen(20, 30)], crops, ""))
    assert [(left, width) for _, left, width in bars(page)] == [(0, 10), (25, 25), (50, 50)]
    assert "10.0 s" in page.text
    assert "30.0 s" in page.text


def test_the_end_is_that_of_the_one_that_ends_last() -> None:
    page = Page(gallery("car", [seen(0, 100), seen(10, 20)], crops, ""))
    assert [(left, width) for _, left, width in bars(page)] == [(0, 100), (10, 10)]


@pytest.mark.parametrize("at", [0.0, 5.0])
def test_a_single_moment_has_a_bar(at: float) -> None:
    assert bars(Page(gallery("car", [seen(at, at)], crops, ""))) == [("#a0-0", 0, 0)]


def test_each_bar_leads_to_its_pictures() -> None:
    found = [seen(5, 6, 50), seen(1, 2, 10), seen(3, 4, 30, camera="yard")]
    page = Page(gallery("car", found, crops, ""))
    places = [str(item["id"]) for item in page.all("li")]
    assert [link for link, _, _ in bars(page)] == [f"#{place}" for place in places]
    assert len(set(places)) == 3
    # Cameras by name, and each one's by time.
    assert pictures(page) == [crop(10), crop(50), crop(30)]
    assert [text for text in page.text if text in ("gate", "yard")] == ["gate", "yard"]
    # Each camera has a line of its own.
    assert [left for _, left, _ in bars(page)] == [0, 80, 0]


def test_thumbnails_are_the_crops_and_the_page_says_how_many_more_there_are() -> None:
    text = gallery("car", [seen(0, 1, *range(MOST_THUMBNAILS + 3))], crops, "")
    assert pictures(Page(text)) == [crop(number) for number in range(MOST_THUMBNAILS)]
    assert "and 3 more" in text
    assert "more</span>" not in gallery("car", [seen(0, 1, *range(MOST_THUMBNAILS))], crops, "")


def test_a_crop_that_is_missing_is_left_out() -> None:
    text = gallery("car", [seen(0, 1, 1, 2, 3)], lambda n: [] if n == 2 else [crop(n)], "")
    assert pictures(Page(text)) == [crop(1), crop(3)]


def test_what_is_said_of_each() -> None:
    page = Page(gallery("car", [seen(0, 1, when="noon")], crops, "1 appearance"))
    assert "noon to noon" in page.text
    assert "confidence 0.750" in page.text
    assert "1 appearance" in page.text


def test_nothing_found_is_a_page_that_says_so() -> None:
    page = Page(gallery("car", [], crops, "0 appearances"))
    assert "0 appearances" in page.text
    assert not page.all("img")
    assert not page.open


def test_files_of_one_camera_have_lines_of_their_own() -> None:
    morning = seen(0, 1, camera="gate")
    evening = replace(morning, source="evening.mp4")
    page = Page(gallery("car", [morning, evening], crops, ""))
    assert [text for text in page.text if "gate, " in text] == [
        "gate, evening.mp4", "gate, gate.mp4",
    ]  # fmt: skip


def test_an_object_alone_has_several_pictures_and_joined_ones_their_best() -> None:
    def several(number: int) -> list[bytes]:
        return [b"%d of %d" % (place, number) for place in range(3)]

    text = gallery("car", [seen(0, 1, 4), seen(2, 3, 5, 6)], several)
    assert pictures(Page(text)) == [b"0 of 4", b"1 of 4", b"2 of 4", b"0 of 5", b"0 of 6"]


def test_a_path_is_drawn_on_its_frame_in_pixels_of_the_frame() -> None:
    drawn = PathView(640, 480, (((10, 20), (30, 45)), ((5, 6),)), b"frame")
    page = Page(gallery("car", [seen(0, 1, 4), seen(2, 3, 5)], scenes={4: drawn}))
    assert [svg["viewbox"] for svg in page.all("svg")] == ["0 0 640 480"]
    assert [line["points"] for line in page.all("polyline")] == ["10,20 30,45 ", "5,6 "]
    assert [(dot["cx"], dot["cy"]) for dot in page.all("circle")] == [("30", "45"), ("5", "6")]
    (image,) = page.all("image")
    assert (image["width"], image["height"]) == ("640", "480")
    assert image["href"] == "data:image/jpeg;base64," + base64.b64encode(b"frame").decode()
    assert not page.open


def test_without_frames_paths_have_a_plain_background_and_the_page_says_why() -> None:
    plain = PathView(64, 48, (((1, 2), (3, 4)),), None)
    page = Page(gallery("car", [seen(0, 1, 4)], scenes={4: plain}, notes={"gate.mp4": "<gone>."}))
    assert len(page.all("polyline")) == 1 and not page.all("image")
    assert "Paths are drawn without frames: <gone>." in page.text


def test_each_answer_leads_to_its_clip() -> None:
    links = {5: 'clips/a%20"b.mp4'}
    page = Page(gallery("car", [seen(0, 1, 4), seen(2, 3, 5)], clips=links))
    assert [link["href"] for link in page.all("a") if link.get("class") == "clip"] == [links[5]]


def test_two_files_of_one_camera_are_apart_whatever_other_cameras_have() -> None:
    answers = [
        seen(0, 1, 1, camera="gate"),
        replace(seen(0, 1, 2, camera="gate"), source="b.mp4"),
        replace(seen(0, 1, 3, camera="yard"), source="b.mp4"),
    ]
    assert len(Page(gallery("car", answers)).all("h2")) == 3
