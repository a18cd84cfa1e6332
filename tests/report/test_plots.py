"""What can be read off a plot, however close together what it shows lies."""

import re

import pytest

from finetune.report.plots import Dot, scatter


@pytest.mark.parametrize(
    ("speeds", "told"),
    [((26, 43), ["25", "30", "35", "40", "45"]), ((45, 219), ["50", "100", "200"]),
     ((11.2, 11.3), ["11.2", "11.25", "11.3"]), ((300, 4500), ["500", "1000", "2000", "5000"])],
)  # fmt: skip
def test_the_axis_of_speeds_has_numbers(speeds, told):
    drawn = scatter([Dot(f"n{speed}", speed, 40 + speed / 99) for speed in speeds], "", ("x", "y"))
    shown = re.findall(r'class="dim" text-anchor="middle">([\d.]+)<', drawn)
    assert shown == told
