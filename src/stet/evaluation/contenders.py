"""The contenders of a comparison: policies with their parameters, and the baselines beside them.

A contender is written `NAME`, or `NAME:parameter=value,parameter=value`. Several values of a
parameter, `value|value`, make one contender each. A file lists contenders, optionally with labels
and options.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from stet.core.errors import FileError, OptionError, StetError
from stet.core.parsing import value_of
from stet.core.reading import read_text
from stet.core.step_policy import StepPolicy
from stet.evaluation.records import PolicyEntry
from stet.policies import Policy, available, parameters, resolve
from stet.policies.artefact import SUFFIX, read_artefact
from stet.requests.methods import method_of

ALONE = ("target", "draft")
"""Names for decoding with one model alone."""


@dataclass(frozen=True)
class Majority:
    """Several sampled answers of one method, and a vote over the answers that the grader extracts.

    Source: Wang et al., "Self-Consistency", arXiv 2203.11171.

    Attributes:
        of: the method: "target", "draft", or a policy's name.
        k: number of samples.
        temperature: temperature of the samples.
        top_p: top-p of the samples.
    """

    of: str = "target"
    k: int = 5
    temperature: float = 0.7
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if self.k < 2:
            raise OptionError(f"majority needs k of at least 2, not {self.k}.")
        if self.temperature <= 0:
            raise OptionError("majority needs a temperature above 0: equal samples cannot vote.")


@dataclass(frozen=True)
class Contender:
    """One entry of a comparison, ready to run.

    Attributes:
        entry: label, name and parameters, for the records.
        policy: the policy argument of `Pair.generate`.
        options: options of its requests beside the run's.
        majority: the vote; None for other contenders.
    """

    entry: PolicyEntry
    policy: str | Policy
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    majority: Majority | None = None

    @property
    def label(self) -> str:
        """Its label in the run."""
        return self.entry.label

    @property
    def samples(self) -> int:
        """Texts per answer."""
        return self.majority.k if self.majority else 1


def contender(
    name: str,
    values: Mapping[str, Any] | None = None,
    *,
    label: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Contender:
    """Make a contender from the name of a policy or baseline.

    Args:
        name: "target", "draft", "majority", a policy's name, or a file made by calibration.
        values: its parameters.
        label: its label in the run; by default its name and the parameters that are no defaults.
        options: options of its requests beside the run's (see `stet.requests.options.Options`).

    Raises:
        OptionError: for an unknown name or parameter, or a value out of range.
    """
    given, own = dict(values or {}), dict(options or {})
    if name.endswith(SUFFIX):
        label = label or Path(name).stem
        name, stored = read_artefact(name)
        given = {**stored, **given}
    if name in ALONE:
        if given:
            raise OptionError(f"{name!r} decodes with one model and has no parameters.")
        return Contender(PolicyEntry(label or name, name, {}, name == "target", own), name, own)
    if name == "majority":
        return _majority(given, label, own)
    policy = resolve(name, given)
    chosen = parameters(policy)
    plain, _, preset = name.partition(".")
    standard = parameters(resolve(name)) if preset else _defaults(policy)
    title = label or _label(name, _changed(chosen, standard))
    # As JSON, so that an entry equals itself read back.
    written = json.loads(json.dumps(chosen))
    return Contender(PolicyEntry(title, plain, written, policy.lossless, own), policy, own)


def _majority(given: dict[str, Any], label: str | None, options: dict[str, Any]) -> Contender:
    known = [f.name for f in fields(Majority)]
    for parameter in given:
        if parameter not in known:
            listed = ", ".join(known)
            raise OptionError(f"majority has no parameter {parameter!r}; it has: {listed}.")
    vote = Majority(**given)
    policy: str | Policy = vote.of if vote.of in ALONE else resolve(vote.of)
    sampling = {"temperature": vote.temperature, "top_p": vote.top_p}
    chosen = {f.name: getattr(vote, f.name) for f in fields(vote)}
    entry = PolicyEntry(label or f"majority of {vote.of}", "majority", chosen, False, options)
    if not label and (rest := _changed(chosen, _defaults(vote), skip=("of",))):
        entry = replace(entry, label=f"{entry.label} ({rest})")
    return Contender(entry, policy, {**options, **sampling}, vote)


def _label(name: str, rest: str) -> str:
    return f"{name} ({rest})" if rest else name


def _defaults(record: Any) -> dict[str, Any]:
    return {f.name: f.default for f in fields(record)}


def _changed(
    chosen: Mapping[str, Any], standard: Mapping[str, Any], skip: Sequence[str] = ()
) -> str:
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in chosen.items()
        if name not in skip and value != standard[name]
    )


def parse(text: str) -> list[Contender]:
    """Parse contenders from `NAME:parameter=value|value,...`.

    Raises:
        OptionError: for text of another form, or an unknown name or parameter.
    """
    name, _, rest = text.partition(":")
    sweep: dict[str, list[Any]] = {}
    for item in filter(None, rest.split(",")):
        parameter, equals, values = item.partition("=")
        if not equals or not parameter.strip():
            raise OptionError(f"{text!r}: {item!r} is not of the form parameter=value.")
        sweep[parameter.strip()] = [value_of(v.strip()) for v in values.split("|")]
    return [contender(name.strip(), values) for values in _combinations(sweep)]


def _combinations(sweep: Mapping[str, Sequence[Any]]) -> Iterable[dict[str, Any]]:
    for values in product(*sweep.values()):
        yield dict(zip(sweep, values, strict=True))


def read_file(path: Path) -> list[Contender]:
    """Read the contenders of a TOML or YAML file, a list under `policy`.

    Each has a `name`, and may have `label`, `parameters`, `sweep` (lists of values of parameters)
    and `options`.

    Raises:
        OptionError: where the file cannot be read, or holds something else.
    """
    try:
        text = read_text(path)
    except FileError as error:
        raise OptionError(str(error)) from error
    record = _toml(path, text) if path.suffix == ".toml" else _yaml(path, text)
    listed = record.get("policy") if isinstance(record, dict) else None
    if not isinstance(listed, list) or not listed:
        raise OptionError(f"{path} holds no list under `policy`.")
    return [made for item in listed for made in _entry(item, path)]


def _toml(path: Path, text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path} is not TOML: {error}.") from error


def _yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = str(error).replace("\n", " ")
        raise OptionError(f"{path} is not YAML: {where}.") from error


KEYS = ("name", "label", "parameters", "sweep", "options")


def _entry(item: Any, path: Path) -> list[Contender]:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise OptionError(f"{path}: each policy needs a `name`.")
    unknown = [key for key in item if key not in KEYS]
    if unknown:
        raise OptionError(f"{path}: {item['name']!r} has {unknown[0]!r}; known: {', '.join(KEYS)}.")
    sweep: dict[str, list[Any]] = item.get("sweep", {})
    label, made = item.get("label"), []
    for values in _combinations(sweep):
        shown = ", ".join(f"{name}={value}" for name, value in values.items())
        full = f"{label} ({shown})" if label and shown else label
        own = {**item.get("parameters", {}), **values}
        made.append(contender(item["name"], own, label=full, options=item.get("options")))
    return made


def defaults(
    *, graded: bool, has_draft: bool, bundled: bool = True, fitted: bool | None = None
) -> list[Contender]:
    """Both models alone, every policy that needs no further setting, and votes of both models.

    Args:
        graded: whether answers are graded, so that votes are possible.
        has_draft: whether there is a draft model.
        bundled: whether the pair is the bundled one, whose target cannot answer side queries.
        fitted: whether the policies that are fitted to the bundled pair fit this one; in another
            dtype they do not. None: as `bundled`.
    """
    names = ["target", "draft"] if has_draft else ["target"]
    names += [
        p.name for p in sorted(available(), key=lambda p: (not p.lossless, p.name != "exact"))
    ]
    made: list[Contender] = []
    for name in names:
        try:
            item = contender(name)
            method = method_of(item.policy, None, has_draft=has_draft)
            if method.pair is not None and not (bundled if fitted is None else fitted):
                continue  # it needs a reward that belongs to this pair
            if bundled and isinstance(item.policy, StepPolicy) and item.policy.asks_target:
                continue  # the bundled target cannot answer side queries
            if isinstance(item.policy, Policy) and item.policy.control:
                continue  # it is only a control for another policy at the same rate
        except (StetError, TypeError):
            continue  # it has to be calibrated or trained first, or needs a draft model
        made.append(item)
    if graded:
        made += [
            contender("majority", {"of": name}) for name in (ALONE if has_draft else ALONE[:1])
        ]
    return made


def baselines(*, has_draft: bool) -> list[Contender]:
    """The baselines that are added beside every lossy policy."""
    names = ("target", "draft", "exact", "ensemble", "confident") if has_draft else ("target",)
    return [contender(name) for name in names]


def distinct(contenders: Iterable[Contender]) -> list[Contender]:
    """Drop contenders that were given twice.

    Raises:
        OptionError: two different contenders have the same label.
    """
    found: dict[str, Contender] = {}
    for item in contenders:
        known = found.setdefault(item.label, item)
        if known.entry != item.entry:
            raise OptionError(
                f"Two policies have the label {item.label!r}; give one another label."
            )
    return list(found.values())
