"""Sentences on when something is to be seen."""

import numpy as np
import pytest

from cpllm_model.decoding.samples import Event
from cpllm_model.predictor import Distortion, SegmentTimes
from cpllm_model.scale import EVENTS
from cpllm_model.when import PHRASES, clock, listed, sentences


def times(*events: Event) -> SegmentTimes:
    edges = np.arange(5) * 10.0
    return SegmentTimes(edges[:-1], edges[1:], np.ones(4, bool), events)


@pytest.mark.parametrize(
    ("time_s", "written"),
    [(0, "0:00"), (5.04, "0:05"), (65.5, "1:05.5"), (59.96, "1:00"), (3725, "1:02:05")],
)
def test_times_are_written_as_clocks_show_them(time_s: float, written: str) -> None:
    assert clock(time_s) == written


def test_distortions_that_come_and_go_have_their_time() -> None:
    def named(name: str, *stretches: tuple[float, float]) -> Distortion:
        return Distortion(name, 3.0, 0.9, named=True, stretches=stretches)

    found = [named("blur", (20.0, 30.0)), named("noise", (0.0, 10.0), (20.0, 25.0)), named("colour", (20.0, 30.0))]
    assert sentences(found, times()) == [
        "From 0:20 to 0:30 it shows blur and wrong colours.",
        "From 0:00 to 0:10 and from 0:20 to 0:25 it shows noise.",
    ]


def test_what_is_there_all_the_time_or_not_named_has_none() -> None:
    always = Distortion("noise", 3.0, 0.9, named=True, stretches=((0.0, 40.0),))
    unnamed = Distortion("blur", 1.0, 0.1, named=False)
    assert sentences([always, unnamed], times()) == []


def test_events_are_told_by_kind_and_long_lists_are_cut() -> None:
    frozen = [Event("freeze", start, start + 1) for start in (1.0, 5.0, 9.0, 20.0)]
    assert sentences([], times(Event("black", 30.0, 32.5), *frozen)) == [
        "The picture freezes from 0:01 to 0:02, from 0:05 to 0:06, from 0:09 to 0:10 and 1 more time.",
        "The picture is black from 0:30 to 0:32.5.",
    ]
    assert listed([(1, 2)]) == "from 0:01 to 0:02"


def test_every_kind_of_event_has_its_phrase() -> None:
    assert PHRASES.keys() == EVENTS.keys()
