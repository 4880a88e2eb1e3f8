"""Names that W&B refuses are refused when a spec is enqueued, not when it is read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from jobspec.errors import SpecError
from jobspec.spec import parsing, tracking_names
from jobspec.spec.identity import canonical
from jobspec.spec.schema import TrackingSpec
from tests.support.specs import tuned_spec

REFUSED = [
    ("project", "team/sweep", '"entity": "team", "project": "sweep"'),
    ("project", "a:b", "use letters"),
    ("project", "100%", "use letters"),
    ("project", "a#b?", "use letters"),
    ("project", "back\\slash", "use letters"),
    ("project", "x" * 129, "shorter"),
    ("project", " led by a space", "remove"),
    ("project", "two\nlines", "remove"),
    ("entity", "my team", "use letters"),
    ("entity", "https://wandb.ai/me", "use letters"),
    ("entity", "me@example.com", "use letters"),
    ("entity", "x" * 129, "shorter"),
    ("group", "x" * 129, "shorter"),
    ("group", "tab\tbed", "remove"),
]


@pytest.mark.parametrize(("field", "value", "hint"), REFUSED)
def test_a_name_that_wandb_refuses_is_refused_with_its_place(
    field: str, value: str, hint: str
) -> None:
    tracking = TrackingSpec(**{field: value})
    with pytest.raises(SpecError) as refused:
        tracking_names.check(tracking, Path("a.json"))
    assert refused.value.place == f"$.tracking.{field}"
    assert hint in (refused.value.hint or "")
    spec = msgspec.structs.replace(tuned_spec(), tracking=tracking)
    assert parsing.decode(canonical(spec)).tracking == tracking  # a queued job stays readable


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project", "jobspec"),
        ("project", "a sweep, 2. try (ü)"),
        ("project", "x" * 128),
        ("entity", "my-team_2"),
        ("entity", None),
        ("group", "lr/1e-5: second"),
    ],
)
def test_other_names_are_accepted(field: str, value: str | None) -> None:
    assert list(tracking_names.problems(field, value)) == []
