import pytest

from intarsia.errors import ConfigError
from intarsia.training.schedule import Schedule


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cosin"}, "unknown schedule 'cosin': choose from constant, cosine, step"),
        ({"warmup": -1}, "schedule.warmup is -1: give at least 0"),
        ({"warmup": float("nan")}, "schedule.warmup is nan"),
        ({"kind": "step", "step_size": 0}, "schedule.step_size is 0: give more than 0"),
        ({"kind": "step", "gamma": -0.1}, "schedule.gamma is -0.1"),
    ],
)
def test_values_that_are_no_schedule_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Schedule(**settings)
