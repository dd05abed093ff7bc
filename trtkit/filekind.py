"""What a file really is where it is not what its name says: a pointer, a web page, nothing at all."""

from __future__ import annotations

from pathlib import Path

from trtkit.errors import TrtkitError, os_reason

# Enough of a file to tell what it is.
HEAD_BYTES = 512
GIT_LFS = b"version https://git-lfs"
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


def check_content(path: Path) -> bytes:
    """The first bytes of a file. Raises TrtkitError for one that holds no model whatever its ending.

    Those are files that cannot be read, empty files, pointers of Git LFS and web pages.

        check_content(Path("model.onnx"))[:4]
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise TrtkitError(
            f"{path} cannot be read ({os_reason(error)}); give the path of a readable file."
        ) from error
    if not head:
        raise TrtkitError(f"{path} is empty; copy or download it again.")
    if head.startswith(GIT_LFS):
        raise TrtkitError(
            f"{path} is a Git LFS pointer, not the file that it stands for; run `git lfs pull` in its "
            "repository."
        )
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(PAGES):
        raise TrtkitError(
            f"{path} is a web page, such as a download leaves that needs a login; download the file "
            "itself."
        )
    return head
