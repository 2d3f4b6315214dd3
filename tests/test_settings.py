"""Settings: the first one that makes no sense is told, with what it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_interformer.settings import FINITE, RANGE, SHARE, at_least, check_settings, of_process
from napari_interformer.train import TrainConfig


@dataclass
class Config:
    count: float = 1
    share: float = 0.5
    span: tuple[float, float] = (1.0, 2.0)
    free: float = -1
    weight: float = 0.0
    whole: int = 3


ALLOWED = {"span": RANGE, "share": SHARE, "count": at_least(1), "weight": FINITE}


@pytest.mark.parametrize(
    "config", [Config(), Config(1.5, 0, (2, 2)), Config(math.inf, 1, (1e-9, 1e9), math.nan, 7, np.int64(2))]
)
def test_what_is_allowed_passes_and_what_has_no_rule_is_free(config):
    check_settings(config, ALLOWED)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (Config(count=0), "count takes 1 or more; got 0."),
        (Config(count=math.nan), "count takes 1 or more; got nan."),
        (Config(share=1.5), "share takes a number from 0 to 1; got 1.5."),
        (Config(share=math.nan), "share takes a number from 0 to 1; got nan."),
        (Config(count="3"), "count takes 1 or more; got '3'."),
        (Config(span=(0, 1)), "span takes two numbers above 0, the smaller one first; got 0, 1."),
        (Config(span=(1, 2, 3)), "span takes two numbers above 0, the smaller one first; got 1, 2, 3."),
        (Config(span=()), "span takes two numbers above 0, the smaller one first; got none."),
        (Config(span=4.0), "span takes two numbers above 0, the smaller one first; got 4.0."),
        (Config(weight=math.inf), "weight takes 0 or more, and finite; got inf."),
        (Config(whole=1e4), "whole takes a whole number; got 10000.0."),
        (Config(whole="3"), "whole takes a whole number; got '3'."),
        (Config(span=(1, math.inf)), "span takes two numbers above 0"),
        (Config(0, 2, (2, 1)), "count takes"),
        (Config(1, 2, (2, 1)), "share takes"),
    ],
)
def test_the_first_setting_that_makes_no_sense_is_told(config, told):
    with pytest.raises(ValueError, match=told):
        check_settings(config, ALLOWED)


@pytest.mark.parametrize("setting", [{"initial": Path("a.safetensors")}, {"exclude": ("bacteria",)}])
def test_what_is_no_text_is_refused_where_text_is_expected(setting):
    with pytest.raises(ValueError, match="takes text; got"):
        TrainConfig(**setting)


@pytest.mark.parametrize("setting", [{"steps": True}, {"lr": True}, {"lr": torch.tensor(1e-3)}])
def test_what_only_looks_like_a_number_is_refused(setting):
    with pytest.raises(ValueError, match="takes a"):
        TrainConfig(**setting)


def test_numbers_of_numpy_are_numbers():
    assert TrainConfig(steps=np.int64(5), crop_sizes=(np.int64(64),), lr=np.float32(0.5)).steps == 5


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({}, (0, 1)),
        ({"RANK": "1"}, (0, 1)),
        ({"WORLD_SIZE": "2"}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_a_process_is_one_of_several_only_if_both_numbers_are_told(monkeypatch, told, found):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert of_process() == found
