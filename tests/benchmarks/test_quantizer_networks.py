"""The networks that the quantizer is measured on: splits without overlap, float figures of the data's own README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import quantizer_networks
from benchmarks.quantizer_evaluation import Evaluator

SHARED = Path(__file__).parents[3] / "shared/data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the networks are not beside the repository")

#: Float results of ../shared/data/README.md on all samples, as it prints them.
FLOAT = {
    "resnet8": "0.751",
    "vww": "0.867",
    "kws": "0.912",
    "mnist": "0.984",
    "squeezenet": "0.594",
    "mobilenet": "0.580",
    "fastestdet": "0.319",
    "deeplab": "0.325",
}
SLOW = {"squeezenet", "mobilenet", "fastestdet", "deeplab"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in quantizer_networks.NAMES]
)
def test_the_float_figure_is_that_of_the_datas_readme_and_the_split_is_disjoint(name: str) -> None:
    network = quantizer_networks.load(name)
    everything = range(len(network.labels))

    assert f"{Evaluator(network, indices=everything).float_score:.3f}" == FLOAT[name]
    assert sorted(network.calibration_indices + network.evaluation_indices) == list(everything)
    assert len(next(iter(network.calibration.values()))) == len(network.calibration_indices)


def test_the_table_asks_for_128_images_whatever_the_example_takes() -> None:
    network = quantizer_networks.load("mobilenet")
    assert len(network.calibration_indices) == 128
    assert len(network.evaluation_indices) == 372


@pytest.mark.slow
def test_deeplabs_other_figures_are_those_of_the_readme() -> None:
    network = quantizer_networks.load("deeplab")
    evaluator = Evaluator(network, indices=range(100))
    (maps,) = network.decode(evaluator.reference.by_name()).values()
    right = counted = 0
    for predicted, truth in zip(np.squeeze(maps), network.labels, strict=False):
        size = (truth.shape[1], truth.shape[0])
        at_full_size = np.asarray(Image.fromarray(predicted.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
        labelled = truth >= 0  # `ignore` of a job's label_map is negative
        right += int(np.sum((at_full_size == truth) & labelled))
        counted += int(labelled.sum())

    assert f"{right / counted:.3f}" == "0.836"
    assert len({int(c) for truth in network.labels[:100] for c in np.unique(truth) if c >= 0}) == 18
