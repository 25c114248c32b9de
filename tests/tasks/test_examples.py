"""What a run is judged by: data of its kind, of which it need not be known what they are."""

import numpy as np
from PIL import Image

from ornstein.data import DataOptions, open_data
from ornstein.runs.config import NetConfig, RunConfig
from ornstein.runs.vocabulary import Vocabulary
from ornstein.tasks.examples import other_data
from untrained import of_random_weights


def pictures(folder, *names):
    folder.mkdir()
    for i, name in enumerate(names):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{name}.png")
    return folder


def test_data_to_judge_a_run_by_need_no_column_of_its_classes(tmp_path):
    folder = pictures(tmp_path / "known", "a", "b")
    (folder / "metadata.csv").write_text("file_name,kind\na.png,x\nb.png,y\n")
    options = DataOptions(label="kind")
    train = open_data(folder, options)
    assert train.classes == ["x", "y"]
    config = RunConfig(data=options, net=NetConfig(size=8))
    model = of_random_weights(config, train.codec, Vocabulary(classes=("x", "y")))
    assert other_data(model, str(folder)).label.tolist() == [0, 1]
    found = other_data(model, str(pictures(tmp_path / "other", "c")))
    assert found.ids == ["c.png"] and (found.label is None or found.label.tolist() == [-1])
