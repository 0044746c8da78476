"""A tidy record: one number, its interval, and what it was measured on. Timings, which never repeat, are kept apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from hc_lafter.refusals import unusable

UNITS = ("fraction", "nats", "bits", "ratio", "count", "pixels", "logit", "cosine", "degrees", "unitless")
TIME_UNITS = ("seconds", "milliseconds", "images/second", "MiB")  # differ from run to run: timings.json only
DIGITS = 6  # significant digits on file: far below what any interval resolves, far above float32's last-bit noise
REFERENCE = "world, reference"  # data set of what committed runs said that were trained to convergence on the world
CONVERGED = ", trained to convergence"  # ends the metric of points of their curve
KEY = ("system", "minus", "regime", "dataset", "split", "metric", "n_train")  # what names a number; one record each


def _finite(value: Any) -> int | float:
    """Whole numbers stay exact, others keep `DIGITS` digits; numpy's and torch's scalars are numbers, too."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a finite number")
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


Name = Annotated[str, Field(pattern=r"\S", strict=True)]
Number = Annotated[int | float, PlainValidator(_finite)]
Count = Annotated[int, Field(ge=1)]


class Metric(BaseModel):
    """One number. Fields from ``minus`` on are left out of the record where they are None."""

    model_config = ConfigDict(frozen=True)

    system: Name = Field(description="a name for what was measured, e.g. 'layer 5'")
    dataset: Name = Field(description="the name of what it was measured on")
    split: Name = Field(description="'train', 'val', 'test', or a word for why it is none of them")
    metric: Name = Field(description="the name of the quantity, e.g. 'top-1 accuracy'")
    value: Number = Field(description="a finite number, or leave the record out")
    low: Number | None = Field(None, description="the lower end of the interval around the value, or neither end")
    high: Number | None = Field(None, description="the upper end of the interval around the value, or neither end")
    n: Count | None = Field(None, description="the number of images (or whatever was counted) behind the value")
    seeds: Count | None = Field(None, description="the number of seeds that the value is the mean of")
    unit: Literal[*UNITS, *TIME_UNITS] = Field("unitless", description="the unit of the value")
    minus: Name | None = Field(None, description="the system that was subtracted, where the value is a difference")
    n_train: int | None = Field(None, ge=0, description="the number of images that the system was trained on")
    converged: bool | None = Field(None, description="whether every run behind the value no longer gained")
    regime: Name | None = Field(None, description="how the system was tuned, e.g. 'supervised' or 'label-free'")
    p_holm: Number | None = Field(None, description="the p value, corrected for all comparisons of its notebook")
    verdict: Name | None = Field(
        None,
        description="'better', 'worse', 'no difference', 'undecided with S seeds', after that, or 'not converged'",
    )
    low_all: Number | None = Field(None, description="of low and high for all of them together, where verdict needs it")
    high_all: Number | None = Field(None, description="the upper end of that interval")

    @model_validator(mode="after")
    def _fits(self) -> Metric:
        if self.unit == "fraction" and abs(self.value) > 1:  # differences of fractions have a sign
            raise ValueError(f"value {self.value} is not a fraction: divide per cent by 100, or give another unit.")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low is {self.low} and high is {self.high}: give both ends of the interval, or neither.")
        if self.low is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"value {self.value} lies outside [{self.low}, {self.high}]: give its own interval.")
        return self


def metric(*values: Any, **named: Any) -> dict[str, Any]:
    """The record of one number: fields of `Metric`, in their order or by name; names of no field are left out.

    Raises:
        ValueError: a field is missing or does not fit, a fraction exceeds 1, or the value lies outside its interval.
    """
    given = {**dict(zip(Metric.model_fields, values, strict=False)), **named}
    try:
        record = Metric(**given).model_dump()
    except ValidationError as error:
        place = " / ".join(str(given[key]) for key in KEY if given.get(key) is not None)
        raise ValueError(unusable(error, Metric, f"metric {place}: ")) from None
    optional = list(record)[list(record).index("minus") :]
    return {key: value for key, value in record.items() if value is not None or key not in optional}


def key_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names a record."""
    return tuple(None if record.get(part) is None else str(record[part]) for part in KEY)


def is_timing(record: Mapping[str, Any]) -> bool:
    """Whether a record has a time unit, or is of the split ``timing`` (a ratio of times)."""
    return record["unit"] in TIME_UNITS or record["split"] == "timing"
