"""Profiles: the sizes under which a notebook runs. A profile is data (``profiles.toml``) and read only here."""

from __future__ import annotations

import ast
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hc_lafter.refusals import nearest, unusable

Name = Annotated[
    str, Field(min_length=1, pattern=r"\S"), BeforeValidator(lambda v: str(v) if isinstance(v, PurePath) else v)
]
Size = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AsList = BeforeValidator(
    lambda v: (
        v.strip(" []()").rstrip(",").split(",")
        if isinstance(v, str)
        else list(v)
        if isinstance(v, tuple | range)
        else v
    )
)
Counts = Annotated[list[Size], Field(min_length=1), AsList]
Grid = Annotated[list[Positive], Field(min_length=1), AsList]
Amounts = Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1), AsList]


PARAMETERS = ("profile", "overrides")  # what the parameters cell of a notebook sets


class Profile(BaseModel):
    """The values that a notebook runs with. Frozen; refuses unknown names and changed types (2.0 is not a count)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    clip: Name = Field(description="'embedded', a tag such as 'ViT-B-32/laion2b_s34b_b79k', or a checkpoint file")
    data: Name = Field(description="'world', a folder of images, or a csv")
    n_train: Size = Field(description="the number of images in the train split (for data of your own an upper limit)")
    n_val: Size = Field(description="the number of images in the val split (for data of your own an upper limit)")
    n_test: int = Field(
        ge=10, description="the number of images in the test split, 10 or more (for data of your own an upper limit)"
    )
    seeds: int = Field(ge=2, description="the number of seeds, 2 or more, since an interval needs them")
    seed: int = Field(ge=0, lt=2**31, description="the first seed; the others count up from it")
    layers: Counts | None = Field(None, description="the blocks to tap, counted from 1, e.g. 5,6,12, or none for all")
    batch_size: Size = Field(description="the number of images that go through the tower at once")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        description="'fp32', 'bf16', or 'auto' for bf16 where the processor is fast at it"
    )
    device: str = Field(
        pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$", description="'auto', 'cpu', 'mps', 'cuda' or 'cuda:1'"
    )
    threads: int = Field(
        ge=0, lt=1025, description="the number of processor threads to compute with, 0 for torch's own choice"
    )
    workers: int = Field(ge=0, description="the number of processes that load images, 0 for the notebook's own")
    on_error: Literal["raise", "skip"] = Field(description="'raise' or 'skip' for an image that cannot be read")
    bootstrap: int = Field(ge=100, description="the number of resamples, 100 or more, behind an interval")
    probe_c: Grid = Field(description="the linear probe's grid of C (inverse regularisation), e.g. 0.1,1,10")
    descriptions: Name | None = Field(
        None, description="sentences per class, a JSON file of LaFTer's form, or none for the package's own"
    )
    text_steps: Size = Field(description="the number of steps that train the text classifier")
    text_noise: Amounts = Field(description="the noise on text features to choose from, e.g. 0,0.1")
    n_tune: Size = Field(description="the number of train images, drawn for each seed, that systems are tuned on")
    n_select: Size = Field(description="the number of val images that choose the epoch of a tuned tower")
    epochs: int = Field(ge=3, description="the number of epochs, 3 or more, since schedules have three phases")
    tune_batch: Size = Field(description="the number of images per step of tuning")
    baselines: Literal["none", "cached", "all"] = Field(
        description="which published methods run beside the systems: 'none', 'cached' (on cached features), or 'all'"
    )
    prompt_tokens: Size = Field(description="the number of prompt tokens at the input, or per segment")
    rate: Positive = Field(description="a factor, above 0, on the designs' learning rates of 1e-4 and 1e-5")
    steps: Size | None = Field(
        None,
        description="the fewest training steps of which validation chooses, or none: 'epochs' epochs, no choice",
    )
    mask_steps: Size | None = Field(None, description="the same of training on masks")
    rates: Grid | None = Field(
        None, description="learning rates of which validation chooses one for each system, or none for the designs' own"
    )
    doublings: int = Field(0, ge=0, description="how often twice as many steps are tried while that helps")
    label_counts: Counts | None = Field(
        None, description="labels per class at which accuracy is measured, e.g. 4,16,64, or none for no such curve"
    )
    sigmas: Grid = Field(description="the widths of NGA that are swept, in layers, e.g. 0.5,1,2")
    lambdas: Amounts = Field(description="the distribution's shares in the dual-task loss that are swept, e.g. 0,0.8")
    token_grid: Counts = Field(description="the numbers of prompt tokens that are swept, e.g. 4,16,50")
    n_sweep: Size | None = Field(
        None,
        description="the number of train images that numbers and starts of prompts are tried on, or none: no trial",
    )
    mask_data: Name = Field(description="'world', or a data set with masks such as 'voc:FOLDER'")
    mask_split: Name | None = Field(
        None, description="which mask classes are unseen, e.g. 'zs3net10', or none where the data set has one split"
    )
    n_masks: Size = Field(description="the number of images of a split whose masks are learned, or predicted")
    mask_epochs: int = Field(ge=2, description="the number of epochs, 2 or more, of training on masks")
    mask_arms: bool = Field(description="whether Cascade-CLIP is trained in parts, too: decoders x sums of layers")
    mask_batch: Size = Field(description="the number of images per step of training on masks")
    random_clip: Name = Field(description="a second tower with random weights, e.g. 'ViT-B-32/random'")
    random_images: Size = Field(description="the number of images that go through the second tower")
    # Left out of what results record and are compared by: no number depends on it.
    formats: Literal["svg,png", "svg,png,pdf"] = Field(
        exclude=True,
        description="the files of each figure: 'svg,png', without which there is no report, or 'svg,png,pdf'",
    )


@cache
def _tables() -> dict[str, dict[str, Any]]:
    path = files("hc_lafter.suite") / "profiles.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: {**tables["default"], **values} for name, values in tables.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it from git.") from None


def profile_names() -> tuple[str, ...]:
    """The names that `load_profile` knows."""
    return tuple(_tables())


def load_profile(name: str = "default", overrides: Mapping[str, Any] | None = None, *, strict: bool = True) -> Profile:
    """A profile with other values for some of its fields.

    Args:
        name: ``smoke``, ``default``, ``reference`` or ``full``.
        overrides: field -> value; None only where the field's description knows "none".
        strict: values have the fields' own types; False reads them from text, too: ``3``, ``5,6,12``.

    Raises:
        ValueError: profile or field is unknown (the sentence names the nearest known one), or a value does not fit.
    """
    tables, fields = _tables(), Profile.model_fields
    if overrides is not None and not isinstance(overrides, Mapping):
        raise ValueError(f"overrides = {overrides!r} names no parameter: write it like {{'n_test': 100}}.")
    if name not in tables:
        raise ValueError(f"profile {name!r} is unknown{nearest(name, tables)}: choose one of {', '.join(tables)}.")
    for key in overrides or {}:
        if key not in fields:
            raise ValueError(f"parameter {key!r} is unknown{nearest(key, fields)}: choose one of {', '.join(fields)}.")
        if overrides and overrides[key] is None and fields[key].is_required():
            raise ValueError(f"parameter {key}=None says nothing: give {fields[key].description}, or leave it out.")
    try:
        return Profile.model_validate({**tables[name], **(overrides or {})}, strict=strict)
    except ValidationError as error:
        raise ValueError(unusable(error, Profile, "parameter ")) from None


def parameters(source: str) -> dict[str, Any]:
    """Name -> value of what a parameters cell sets.

    Raises:
        SyntaxError: it is not Python. ValueError: it computes.
    """
    assigned = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assigned}


def check_parameters(names: Iterable[str], place: str) -> None:
    """Refuse a parameters cell that sets more than a notebook reads.

    Args:
        place: the cell in words, for the sentence.

    Raises:
        ValueError: another name than ``profile`` and ``overrides`` is set; what the profile has goes into the latter.
    """
    for name in names:
        if name in Profile.model_fields:
            raise ValueError(f"{place} sets {name}, which nothing reads: write overrides = {{{name!r}: ...}}.")
        if name not in PARAMETERS:
            raise ValueError(
                f"{place} sets {name!r}, which nothing reads{nearest(name, PARAMETERS)}: it may set profile and "
                "overrides."
            )


def folder_name(name: str, profile: Profile) -> str:
    """Where results belong: the profile's name, and where a value is not the profile's own a hash of those values.

    Returns:
        ``default``, or ``default+1a2b3c4d``.
    """
    own = load_profile(name)
    other = {key: value for key, value in profile if value != getattr(own, key)}
    digest = hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()
    return f"{name}+{digest[:8]}" if other else name


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words of a command line -> overrides for `load_profile`.

    ``key=none`` is None where the field knows one (``layers=none``). An empty value, as an unset variable of a shell
    leaves it, is refused: it would silently be the profile's.

    Raises:
        ValueError: a word has no ``=`` or nothing after it, a field is unknown, or a text does not fit it.
    """
    texts: dict[str, str | None] = {}
    fields = Profile.model_fields
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--param {pair} has no value: write it as key=value.")
        field, none = fields.get(key), text.strip().lower() in ("none", "null")
        if field and (not text.strip() or (none and field.is_required() and key != "baselines")):
            says = "is empty" if not text.strip() else "says nothing"
            raise ValueError(f"--param {pair} {says}: give {field.description}, or leave it out.")
        if key in texts:
            raise ValueError(f"--param {key} is given twice: keep one of the two.")
        texts[key] = None if none and field and not field.is_required() else text
    profile = load_profile("default", texts, strict=False)
    return {key: text and getattr(profile, key) for key, text in texts.items()}
