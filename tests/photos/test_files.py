from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtkit.errors import TrtkitError
from trtkit.photos import files
from trtkit.photos.files import FoundImage, find_images


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with photos (empty files: nothing here opens them) and other things."""
    for name in (
        "photos/b.JPG",
        "photos/a.png",
        "photos/cats/two words.jpeg",
        "photos/cats/ünï-猫.webp",
        "photos/cats/deep/er/x.tif",
        "photos/notes.txt",
        "photos/.hidden.jpg",
        "photos/.git/y.jpg",
        "photos/@eaDir/a.png/SYNOPHOTO_THUMB_M.png",
        "photos/cats/@eaDir/thumb.jpg",
        "photos/__MACOSX/._a.png",
        "photos/__MACOSX/a.png",
        "photos/$RECYCLE.BIN/gone.jpg",
        "photos/System Volume Information/i.jpg",
        "photos/Thumbs.db",
        "photos/folder.jpg/inside.bmp",
        "empty/readme.md",
        "odd.dat",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*paths: str | Path) -> list[str]:
    """What is found, as text; `PATH!` for what is found not to work."""
    return [f"{item.path}{'!' if item.error else ''}" for item in find_images(paths)]


ALL = [
    "photos/a.png",
    "photos/b.JPG",
    "photos/cats/deep/er/x.tif",
    "photos/cats/two words.jpeg",
    "photos/cats/ünï-猫.webp",
    "photos/folder.jpg/inside.bmp",
]


@pytest.mark.usefixtures("tree")
class TestFolders:
    def test_all_images_in_order_of_their_names_without_hidden_ones(self) -> None:
        assert names("photos") == ALL
        assert names("photos/", Path("photos")) == ALL + ALL

    def test_the_current_folder(self) -> None:
        assert names(".") == ALL

    def test_a_hidden_folder_that_is_named(self) -> None:
        assert names("photos/.git") == ["photos/.git/y.jpg"]
        assert names("photos/__MACOSX") == ["photos/__MACOSX/a.png"]

    def test_absolute_paths_stay_absolute(self, tree: Path) -> None:
        assert names(tree / "photos" / "cats" / "deep") == [f"{tree}/photos/cats/deep/er/x.tif"]

    def test_one_path_need_not_be_in_a_list(self) -> None:
        assert [str(item.path) for item in find_images("photos/cats/deep")] == [ALL[2]]
        assert [str(item.path) for item in find_images(Path("photos/cats/deep"))] == [ALL[2]]

    def test_a_folder_without_images_says_what_it_holds(self) -> None:
        with pytest.raises(TrtkitError, match=r"empty: .* no image, only files ending in \.md;"):
            find_images(["empty"])
        Path("nothing").mkdir()
        with pytest.raises(TrtkitError, match="hold no image; images end"):
            find_images(["nothing"])
        assert names("empty", "odd.dat", "photos/cats/deep") == ["empty!", "odd.dat", ALL[2]]

    def test_nested_deeper_than_python_calls(self, tree: Path) -> None:
        depth = sys.getrecursionlimit() + 50
        start = os.open(tree, os.O_RDONLY)
        try:
            for _ in range(depth + 1):
                Path("d").mkdir()
                os.chdir("d")
            Path("x.jpg").touch()
        finally:
            os.fchdir(start)
            os.close(start)
        (found,) = find_images(["d"])
        assert found.error is None
        assert len(found.path.parts) == depth + 2
        # Here, because pytest's own clean-up would run out of calls.
        found.path.unlink()
        os.removedirs(found.path.parent)

    def test_names_that_are_not_unicode(self, tree: Path) -> None:
        try:
            (tree / "raw").mkdir()
            Path(os.fsdecode(b"raw/\xff\xfe.jpg")).touch()
        except OSError:
            pytest.skip("this file system takes only Unicode names")
        assert [os.fsencode(item.path) for item in find_images(["raw"])] == [b"raw/\xff\xfe.jpg"]
        assert [os.fsencode(item.path) for item in find_images(["raw/*"])] == [b"raw/\xff\xfe.jpg"]

    def test_it_does_not_wait_for_the_whole_tree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = []
        scandir = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
        found = find_images(["photos"])
        assert listed == ["photos"]
        assert [str(item.path) for item in itertools.islice(found, 3)] == ALL[:3]
        assert listed == ["photos", "photos/cats", "photos/cats/deep", "photos/cats/deep/er"]


@pytest.mark.usefixtures("tree")
class TestLinks:
    def test_links_to_files_and_folders_are_followed(self, tree: Path) -> None:
        (tree / "links").mkdir()
        (tree / "links/cats").symlink_to("../photos/cats/deep")
        (tree / "links/again").symlink_to("../photos/cats/deep")
        (tree / "links/odd.jpg").symlink_to("../odd.dat")
        assert names("links") == ["links/again/er/x.tif", "links/cats/er/x.tif", "links/odd.jpg"]

    def test_loops_end(self, tree: Path) -> None:
        (tree / "photos/cats/deep/up").symlink_to("../..")
        (tree / "photos/cats/deep/self").symlink_to(".")
        assert names("photos") == ALL
        assert names("photos/**/*.tif") == [ALL[2]]
        # Entered through a link below its target, the folders above are seen once.
        assert names("photos/cats/deep") == [
            "photos/cats/deep/er/x.tif",
            *(
                f"photos/cats/deep/up/{name.removeprefix('photos/')}"
                for name in ALL
                if "x.tif" not in name
            ),
        ]

    def test_broken_links_are_named(self, tree: Path) -> None:
        (tree / "broken.jpg").symlink_to("gone.jpg")
        (tree / "itself.jpg").symlink_to("itself.jpg")
        with pytest.raises(TrtkitError, match=r"broken\.jpg: .*leads nowhere.*gone\.jpg"):
            find_images(["broken.jpg"])
        with pytest.raises(TrtkitError, match=r"itself\.jpg: .*cannot be looked up"):
            find_images(["itself.jpg"])
        # In a folder they are found; reading them will say what is wrong.
        assert names(".") == ["broken.jpg", "itself.jpg", *ALL]


@pytest.mark.usefixtures("tree")
class TestGlobs:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("photos/*.png", ["photos/a.png"]),
            ("photos/[ab].*", ["photos/a.png", "photos/b.JPG"]),
            ("photos/?.JPG", ["photos/b.JPG"]),
            ("photos/*", ALL),
            ("*/cats/*.webp", ["photos/cats/ünï-猫.webp"]),
            ("photos/**", ALL),
            ("**", ALL),
            ("**/**/*", ALL),
            ("photos/**/*.tif", ["photos/cats/deep/er/x.tif"]),
            ("photos/**/*.JPG", ["photos/b.JPG"]),
            ("photos/**/er/*", ["photos/cats/deep/er/x.tif"]),
            ("p*/**/d*/**/x.*", ["photos/cats/deep/er/x.tif"]),
            ("./photos/c*", ALL[2:5]),
            ("photos/../odd.*", None),
            ("*.dat", ["odd.dat"]),
            ("photos/*.txt", ["photos/notes.txt"]),
            ("photos/.h*", ["photos/.hidden.jpg"]),
            ("photos/.g*/*", ["photos/.git/y.jpg"]),
        ],
    )
    def test_what_a_pattern_finds(self, pattern: str, expected: list[str] | None) -> None:
        if expected is None:
            with pytest.raises(TrtkitError, match="only 1 other files"):
                find_images([pattern])
        else:
            assert names(pattern) == expected

    def test_absolute(self, tree: Path) -> None:
        assert names(f"{tree}/photos/*.png") == [f"{tree}/photos/a.png"]
        assert names(f"{tree}/**/x.tif") == [f"{tree}/photos/cats/deep/er/x.tif"]

    def test_a_name_that_exists_as_written_wins(self, tree: Path) -> None:
        (tree / "photos/[ab].png").touch()
        (tree / "photos/*").mkdir()
        (tree / "photos/*/star.jpg").touch()
        assert names("photos/[ab].png") == ["photos/[ab].png"]
        assert names("photos/*") == ["photos/*/star.jpg"]

    def test_so_does_a_link_that_leads_nowhere(self, tree: Path) -> None:
        (tree / "photos/?.png").symlink_to("gone.png")
        with pytest.raises(TrtkitError, match="leads nowhere"):
            find_images(["photos/?.png"])

    @pytest.mark.parametrize("pattern", ["photos/*.gif", "nowhere/*", "photos/**/*.gif", "e*/*"])
    def test_nothing_matches(self, pattern: str) -> None:
        with pytest.raises(TrtkitError, match="The pattern matches") as raised:
            find_images([pattern])
        assert str(raised.value).startswith(f"{pattern}: ")
        assert names(pattern, "odd.dat") == [f"{pattern}!", "odd.dat"]


@pytest.mark.usefixtures("tree")
class TestFilesAndErrors:
    def test_a_named_file_is_taken_whatever_it_is_called(self) -> None:
        assert names("odd.dat", "photos/.hidden.jpg", "odd.dat") == [
            "odd.dat",
            "photos/.hidden.jpg",
            "odd.dat",
        ]

    def test_a_missing_file_names_its_neighbours(self) -> None:
        with pytest.raises(TrtkitError) as raised:
            find_images(["photos/a.pgn"])
        assert str(raised.value) == (
            "photos/a.pgn: There is no such file or folder; its folder has a.png, b.JPG."
        )
        with pytest.raises(TrtkitError, match="no similar name"):
            find_images(["zzzzzzzz"])
        with pytest.raises(TrtkitError, match="its folder cannot be read: No such file"):
            find_images(["nowhere/a.png"])

    def test_one_missing_among_several_does_not_stop_the_rest(self) -> None:
        found = list(find_images(["gone.jpg", "odd.dat", "lost", "photos/a.png"]))
        assert [(str(item.path), item.error is None) for item in found] == [
            ("gone.jpg", False),
            ("odd.dat", True),
            ("lost", False),
            ("photos/a.png", True),
        ]
        assert found[0].error is not None
        assert "gone.jpg" not in found[0].error

    def test_all_missing(self) -> None:
        with pytest.raises(TrtkitError, match=r"any of these paths.*gone: .*empty: .*2 more"):
            find_images(["gone", "empty", "*.gif", "lost", "nowhere/x"])

    def test_nothing_asked(self) -> None:
        with pytest.raises(TrtkitError, match="No photos were named"):
            find_images([])
        with pytest.raises(TrtkitError, match="The path is empty; name a file"):
            find_images([""])

    @pytest.mark.parametrize("path", ["nul\0l.jpg", "nul\0*.jpg", "x" * 5000, "\udfff\ud800.jpg"])
    def test_impossible_names(self, path: str) -> None:
        with pytest.raises(TrtkitError):
            find_images([path])
        assert names(path, "odd.dat")[1:] == ["odd.dat"]

    def test_a_file_as_a_folder(self) -> None:
        with pytest.raises(TrtkitError, match="Not a directory"):
            find_images(["odd.dat/x.jpg"])

    @pytest.mark.parametrize("asked", ["photos", "photos/**", "photos/c*/*", "p*/*"])
    def test_an_unreadable_folder_is_named_and_the_rest_goes_on(
        self, asked: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scandir = os.scandir

        def locked(path: Path) -> object:
            if Path(path).name == "cats":
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", locked)
        found = list(find_images([asked, "odd.dat"]))
        assert (
            FoundImage(Path("photos/cats"), "The folder cannot be read: Permission denied.")
            in found
        )
        assert found[-1] == FoundImage(Path("odd.dat"))
        if asked != "photos/c*/*":
            assert [str(i.path) for i in found if not i.error][:-1] == [
                name for name in ALL if "cats" not in name
            ]

    @pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root reads everything")
    def test_an_unreadable_folder(self, tree: Path) -> None:
        (tree / "photos/cats").chmod(0)
        try:
            assert names("photos") == [*ALL[:2], "photos/cats!", ALL[5]]
        finally:
            (tree / "photos/cats").chmod(0o700)

    def test_paths_are_taken_one_by_one(self) -> None:
        def asked() -> Iterator[str]:
            while True:
                yield "odd.dat"

        assert len(list(itertools.islice(find_images(asked()), 1000))) == 1000

    def test_a_million_names_are_not_compared_with_a_misspelt_one(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "_COMPARED", 2)
        many = tree / "many"
        many.mkdir()
        for number in range(5):
            (many / f"img{number}.jpg").touch()
        with pytest.raises(TrtkitError) as raised:
            find_images(["many/img.jpg"])
        assert str(raised.value).count(".jpg") == 3
