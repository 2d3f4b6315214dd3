"""The click loop, its figures and the baselines."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from conftest import blobs
from napari_interformer import cli
from napari_interformer.benchmark import (
    TOLD_AFTER,
    BenchmarkConfig,
    RandomWalkerClicker,
    Result,
    Trial,
    WatershedClicker,
    choose,
    drawn_box,
    measure,
    methods,
    objects_of,
)
from napari_interformer.datasets import Sample
from napari_interformer.geometry import Box

IMAGE, LABELS = blobs()
SAMPLE = Sample("blobs", IMAGE, LABELS, kind="squares")
CONFIG = BenchmarkConfig()
CLICK_SETS = ("grabcut", "berkeley", "davis", "sbd")


class Oracle:
    """Gives half of the object after each click, and all of it after the third."""

    def __init__(self, image):
        self.begin()

    def begin(self):
        self.count, self.target = 0, None

    def click(self, y, x, positive):
        self.count += 1
        self.target = LABELS == LABELS[y, x] if self.target is None else self.target
        if self.count >= 3:
            return self.target
        rows = np.arange(len(LABELS))[:, None]
        return self.target & (rows < np.flatnonzero(self.target.any(axis=1))[16 + 4 * self.count])


class Boxed(Oracle):
    """Knows the object from its box, and gives three quarters of it at once."""

    def box(self, box):
        self.count, self.target = (
            1,
            LABELS == LABELS[(box.top + box.bottom) // 2, (box.left + box.right) // 2],
        )
        return self.click(0, 0, True)


class Hopeless(Oracle):
    """Never finds anything."""

    def click(self, y, x, positive):
        return np.zeros(LABELS.shape, bool)


def test_clicks_are_counted_until_the_highest_threshold_or_the_limit():
    report = measure([SAMPLE], {"oracle": Oracle, "hopeless": Hopeless}, CONFIG)
    oracle, hopeless = (result.summary(CONFIG) for result in report.results)
    assert oracle["objects"] == hopeless["objects"] == 6
    assert oracle["NoC@90"] == 3 and oracle["NoF@90"] == 0 and oracle["IoU@10"] == 1
    assert oracle["IoU@1"] == pytest.approx(20 / 32)
    assert hopeless["NoC@80"] == 20 and hopeless["NoF@80"] == 6 and hopeless["IoU@10"] == 0
    assert oracle["ms/click"] > 0 and oracle["s/MP"] > 0


@pytest.mark.parametrize(("until", "clicks", "last"), [(0, 2, 24 / 32), (0.7, 2, 24 / 32), (1, 3, 1)])
def test_clicks_end_at_the_highest_threshold_or_where_they_are_asked_to(until, clicks, last):
    config = replace(CONFIG, thresholds=(0.6, 0.65), until=until)
    for trial in measure([SAMPLE], {"oracle": Oracle}, config).results[0].trials:
        assert len(trial.ious) == clicks and trial.iou_after(20) == pytest.approx(last)
        assert trial.clicks_to(0.6, 20) == 1


def test_nobody_clicks_where_an_image_has_no_value(small_model):
    image = IMAGE.astype(np.float32)
    image[:64, 24:56] = np.nan  # of the first object a quarter is left
    image[:64, 64:] = np.nan  # of the next two nothing
    config = replace(CONFIG, max_clicks=3)
    trials = measure([replace(SAMPLE, image=image)], methods(config, small_model), config).results[0].trials
    assert [trial.label for trial in trials] == [1, 4, 5, 6]
    assert all(np.isfinite(image[y, x]) for trial in trials for y, x, _ in trial.clicks)


def test_noc_is_the_first_click_at_the_threshold_and_the_limit_where_never():
    trial = Trial("a", "", 1, (0.5, 0.82, 0.79, 0.91), (), 1.0)
    assert [trial.clicks_to(t, 20) for t in (0.5, 0.8, 0.9, 0.95)] == [1, 2, 4, None]
    assert trial.iou_after(1) == 0.5 and trial.iou_after(10) == 0.91
    both = [trial, replace(trial, kind="slow", ious=(0.1,) * 20)]
    result = Result("m", both, [("", 0.2, 1.0), ("slow", 0.8, 1.0)])
    figures = result.summary(CONFIG)
    assert result.summary(CONFIG, "slow")["s/MP"] == 0.8 and result.summary(CONFIG, "")["s/MP"] == 0.2
    assert figures["NoC@80"] == (2 + 20) / 2 and figures["NoF@80"] == 1 and figures["s/MP"] == 0.5
    assert result.curve(3) == pytest.approx([(0.5 + 0.1) / 2, (0.82 + 0.1) / 2, (0.79 + 0.1) / 2])


@pytest.mark.parametrize("method", [WatershedClicker, RandomWalkerClicker])
def test_the_baselines_find_an_object_with_sharp_edges(method):
    noisy = np.clip(IMAGE + np.random.default_rng(0).normal(20, 5, IMAGE.shape), 0, 255).astype(np.uint8)
    report = measure([replace(SAMPLE, image=noisy)], {"m": method}, replace(CONFIG, objects=2))
    assert report.results[0].summary(CONFIG)["NoC@85"] <= 5


@pytest.mark.parametrize("method", [WatershedClicker, RandomWalkerClicker])
def test_the_image_border_is_no_background_for_the_baselines(method):
    image = np.full((60, 60), 20, np.uint8)
    image[:30, :20] = 200  # cut by two sides of the image, and its background lies within the window
    annotator = method(image)
    annotator.begin()
    mask = annotator.click(12, 8, True)
    assert mask[0, 0] and not mask[-1, -1]
    assert (mask & (image > 100)).sum() > 0.9 * (image > 100).sum()


@pytest.mark.parametrize("method", [WatershedClicker, RandomWalkerClicker])
def test_the_baselines_obey_their_own_clicks_and_survive_a_constant_image(method):
    annotator = method(np.full((40, 40), 7, np.uint8))
    annotator.begin()
    assert annotator.click(20, 20, True)[20, 20]
    mask = annotator.click(20, 24, False)
    assert mask[20, 20] and not mask[20, 24]
    annotator.begin()
    assert not annotator.click(5, 5, False).any()


def test_a_box_takes_the_place_of_the_first_click_where_a_method_knows_boxes():
    config = replace(CONFIG, box=0.04)
    methods = {"boxed": Boxed, "oracle": Oracle}
    without = measure([SAMPLE], methods, CONFIG)
    boxed, oracle = measure([SAMPLE], methods, config).results
    assert boxed.summary(config)["NoC@90"] == 2 and boxed.summary(config)["IoU@1"] == pytest.approx(24 / 32)
    for trial in boxed.trials:
        assert trial.box == drawn_box(SAMPLE, trial.label, config)
        assert len(trial.ious) == 2 and len(trial.clicks) == 1, "the box counts as a click"
    seen = [[replace(t, seconds=0) for t in r.trials] for r in (oracle, without.results[1])]
    assert seen[0] == seen[1], "who knows no boxes gets clicks alone"
    assert not any(trial.box for result in without.results for trial in result.trials)
    assert [result.title for result in (boxed, oracle)] == ["boxed, from a box", "oracle"]
    assert [result.title for result in without.results] == ["boxed", "oracle"]


def test_a_careless_box_still_holds_something_of_the_object():
    careless = replace(CONFIG, box=1.0)
    boxes = [drawn_box(replace(SAMPLE, name=str(n)), 2, careless) for n in range(100)]
    assert not any(box.intersect(Box(80, 16, 112, 48)).empty for box in boxes)


def test_no_figure_is_given_for_more_clicks_than_were_made():
    few = replace(CONFIG, max_clicks=3)
    summary = measure([SAMPLE], {"oracle": Oracle}, few).results[0].summary(few)
    assert [name for name in summary if name.startswith("IoU@")] == ["IoU@1", "IoU@3"]


def test_boxes_are_drawn_as_exactly_as_asked_and_the_same_each_time():
    exact, careful = (replace(CONFIG, box=share) for share in (0.0, 0.04))
    assert drawn_box(SAMPLE, 2, CONFIG) is None
    assert drawn_box(SAMPLE, 2, exact) == Box(80, 16, 112, 48)
    ignore = np.zeros(LABELS.shape, bool)
    ignore[:, :90] = True
    assert drawn_box(replace(SAMPLE, ignore=ignore), 2, exact) == Box(90, 16, 112, 48)
    labels = np.pad(np.ones((100, 400), int), 50)
    flat = replace(SAMPLE, image=labels, labels=labels)
    boxes = [drawn_box(replace(flat, name=str(n)), 1, careful) for n in range(300)]
    assert boxes == [drawn_box(replace(flat, name=str(n)), 1, careful) for n in range(300)]
    assert len(set(boxes)) > 250 and drawn_box(flat, 1, careful) != drawn_box(
        flat, 1, replace(careful, seed=1)
    )
    off = np.array(boxes) - Box.around(flat.labels > 0)  # left, top, right, bottom
    farthest = np.abs(off).max(axis=0)
    assert (farthest <= [40, 10, 40, 10]).all() and (farthest >= [36, 9, 36, 9]).all(), "2.5 sigma at most"
    np.testing.assert_allclose(off.std(axis=0), [16, 4, 16, 4], rtol=0.15)
    assert np.abs(off.mean(axis=0)).max() < 2.5


def test_an_object_without_a_value_in_its_middle_starts_with_a_click(small_model):
    image = IMAGE.astype(np.float32)
    image[30:34, 94:98] = np.nan
    config = replace(CONFIG, box=0.0, max_clicks=2)
    trials = measure([replace(SAMPLE, image=image)], methods(config, small_model), config).results[0].trials
    assert [trial.label for trial in trials if trial.box is None] == [2]


def test_clicks_that_end_before_a_threshold_are_refused():
    with pytest.raises(
        ValueError, match=r"until takes an IoU of at least the highest threshold, 0\.9; got 0\.8"
    ):
        replace(CONFIG, until=0.8)


def test_a_box_drawn_without_any_care_still_holds_a_pixel_of_the_image():
    config = replace(CONFIG, box=1.0)
    for label in range(1, 7):
        for n in range(200):
            box = drawn_box(replace(SAMPLE, name=str(n)), label, config)
            assert not box.empty and Box.of(LABELS.shape).holds(box)
    with pytest.raises(
        ValueError, match="box takes a share of the object's extent, from 0 \\(exact\\) to 1; got 4"
    ):
        replace(CONFIG, box=4)


def test_numbers_that_cannot_be_measured_are_refused():
    assert replace(CONFIG, images=0, objects=0, smallest=0, max_clicks=1, seed=0)
    for name, least in {"images": 0, "objects": 0, "smallest": 0, "max_clicks": 1, "seed": 0}.items():
        with pytest.raises(ValueError, match=f"{name} takes {least} or more; got {least - 1}"):
            replace(CONFIG, **{name: least - 1})
    for name in ("images", "max_clicks", "seed"):
        with pytest.raises(ValueError, match=f"{name} takes a whole number; got 2\\.5"):
            replace(CONFIG, **{name: 2.5})
    with pytest.raises(ValueError, match=r"thresholds takes IoU values above 0 and up to 1; got 0\.9"):
        replace(CONFIG, thresholds=0.9)


def test_ignored_pixels_do_not_count():
    half = LABELS.copy()
    half[:, :32] = 0
    ignore = np.zeros(LABELS.shape, bool)
    ignore[:, :32] = True
    report = measure([replace(SAMPLE, labels=half, ignore=ignore)], {"oracle": Oracle}, CONFIG)
    assert report.results[0].summary(CONFIG)["NoF@90"] == 0


def test_a_cap_on_objects_draws_the_same_ones_with_the_same_seed():
    few = replace(CONFIG, objects=3)
    assert objects_of(SAMPLE, few) == objects_of(SAMPLE, few)
    assert len(objects_of(SAMPLE, few)) == 3 < len(objects_of(SAMPLE, CONFIG))
    assert objects_of(SAMPLE, replace(CONFIG, smallest=2000)) == []


@pytest.mark.parametrize(
    ("dataset", "least"), [("folder", 16), ("dsb2018", 16), *((name, 1) for name in CLICK_SETS)]
)
def test_specks_are_left_out_of_microscopy_and_count_in_what_is_published_for_clicks(dataset, least):
    labels = np.zeros_like(LABELS)
    labels[0, 0], labels[4, :15], labels[8, :16] = 1, 2, 3
    config = replace(CONFIG, dataset=dataset)
    assert config.least_pixels == least
    assert objects_of(replace(SAMPLE, labels=labels), config) == ([3] if least == 16 else [1, 2, 3])
    assert objects_of(replace(SAMPLE, labels=labels), replace(config, smallest=15)) == [2, 3]


def test_splits_are_those_of_training():
    everything = [replace(SAMPLE, name=f"s{i}") for i in range(10)]
    parts = {
        name: {s.name for s in choose(everything, replace(CONFIG, split=name))}
        for name in ("training", "validation", "all")
    }
    assert len(parts["validation"]) == 2 and parts["training"] | parts["validation"] == parts["all"]
    assert len(choose(everything, replace(CONFIG, images=4))) == 4
    with pytest.raises(ValueError, match="validation"):
        choose(everything, replace(CONFIG, split="holdout"))
    with pytest.raises(ValueError, match="no images"):
        choose(everything[:1], replace(CONFIG, split="validation"))


@pytest.mark.parametrize("box", [None, 0.04])
def test_our_model_runs_through_the_session(small_model, box):
    config = replace(CONFIG, objects=1, max_clicks=3, baselines=True, box=box)
    report = measure([SAMPLE], methods(config, small_model), config)
    assert [r.method for r in report.results] == ["InterFormer", "seeded watershed", "random walker"]
    assert [bool(r.trials[0].box) for r in report.results] == [box is not None, False, False]
    assert len(report.results[0].trials) == 1


def test_the_report_is_a_table_json_a_plot_and_the_worst_cases(tmp_path):
    samples = [SAMPLE, replace(SAMPLE, name="more", kind="others")]
    config = replace(CONFIG, objects=2, box=0.04)
    report = measure(samples, {"boxed": Boxed, "hopeless": Hopeless}, config)
    written = report.save(tmp_path)
    assert {p.name for p in written} == {"benchmark.json", "benchmark.md", "iou-by-clicks.png", "worst.png"}
    assert all(p.stat().st_size > 200 for p in written)
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["results"][0]["kinds"]["squares"]["objects"] == 2
    assert content["config"]["smallest"] == 16
    assert content["config"]["box"] == 0.04 and len(content["results"][0]["objects"][0]["box"]) == 4
    assert len(content["results"][0]["iou_by_clicks"]) == 20
    lines = report.table().splitlines()
    assert sum("boxed, from a box" in line for line in lines) == 3
    assert len(lines) == 2 + 2 * 3 and len({line.count("|") for line in lines}) == 1


def test_the_help_names_the_clicks_after_which_the_report_has_figures():
    *most, last = map(str, TOLD_AFTER)
    assert f"IoU after {', '.join(most)} and {last} clicks" in (cli.benchmark.help or "")


def test_a_data_set_without_objects_is_refused():
    with pytest.raises(ValueError, match="got none"):
        measure([replace(SAMPLE, labels=np.zeros_like(LABELS))], {"oracle": Oracle}, CONFIG)
