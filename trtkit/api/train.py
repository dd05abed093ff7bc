"""`trtkit train`: transfer learning on a folder of class folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtkit.extras import require
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.training.session import TrainReport

DEFAULT_CACHE_SIZE = 20 * 2**30


def train(
    data: str | Path,
    *,
    name: str | None = None,
    resume: bool = False,
    device: str = "auto",
    workers: int | None = None,
    cache_dir: str | Path | None = None,
    cache_size: int = DEFAULT_CACHE_SIZE,
    workspace: str | Path | None = None,
    **options: Any,
) -> TrainReport:
    """Train a classifier on the class folders of `data` into `checkpoints/NAME`.

    `options` are those of `trtkit.training.options.TrainOptions`; `arch` is the only one needed.
    `name` is the architecture's by default. `resume` continues the training of that name, with the
    options that it was begun with. `device`: `auto`, `cpu`, `cuda`; `workers`: decoding threads, the
    usable cores by default. `cache_dir`: the folder for the outputs of frozen blocks, by default below
    the prefix cache; `cache_size`: its bytes.

    Ctrl-C and SIGTERM end the training after the step under way and raise TrainingInterrupted, a
    KeyboardInterrupt that says how to resume. Raises TrtkitError.

        report = trtkit.train("photos", arch="resnet18", epochs=5)
        print(report.checkpoint, report.metrics["top1"])
    """
    require("train", "Training")
    from trtkit.training.request import check_request

    place = Workspace.at(workspace)
    request = check_request(place, Path(data), name, options, resume=resume, device=device)
    # torch, which takes seconds to import, only for a request that can be carried out.
    from trtkit.training.network import choose_device
    from trtkit.training.session import Resources, run_training

    folder = Path(cache_dir) if cache_dir else None
    return run_training(request, Resources(choose_device(device), workers, folder, cache_size))
