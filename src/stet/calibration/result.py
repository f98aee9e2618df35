"""The result of a calibration, as a file from which a policy is loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stet.calibration.choosing import ThresholdPoint, Wish
from stet.calibration.label_source import LABEL_SOURCES, LabelSource
from stet.calibration.overruling import Overruling
from stet.calibration.quality import Quality
from stet.calibration.reliability import Reliability
from stet.core.errors import OptionError
from stet.core.parsing import first_problem
from stet.core.upgrades import upgrade
from stet.core.writing import json_line, write_text
from stet.policies.artefact import FOLDER, located
from stet.policies.reference import Reference

VERSION = 2


@dataclass(frozen=True)
class Calibration:
    """A policy fitted to a pair and a task, with the evidence.

    Attributes:
        policy: name of the policy.
        parameters: its parameters; `pair` is the fingerprint of the only pair that it is for.
        wish: what the threshold was chosen for.
        label_source: name of the label source (`LABEL_SOURCES`).
        chosen: results at the chosen threshold.
        points: results at every threshold that was tried.
        references: results of the target alone and of exact speculation, by name.
        qualities: how well each signal tells good steps from bad.
        wrong_way: signals that were left out because they rank steps the wrong way round here.
        score: quality of the fitted score, on the steps it was fitted on.
        reliability: share of good steps by score, on the same steps.
        claim: what the results support about the chosen threshold, in a sentence.
        task: name, problems of each part, labelled steps, how they were labelled, and a note.
        target: the target's identity.
        draft: the draft's identity.
        seed: seed of the division and the runs.
        machine: the machine that it was measured on.
        versions: versions of the software.
        command: the command line.
        date: date and time.
        overruling: what comparing both models' steps is worth; None where they were not compared.
        reference: the steps at the chosen threshold, which drift is measured from; None in files of
            before.
        version: version of the file format.
    """

    policy: str
    parameters: dict[str, Any]
    wish: Wish
    label_source: str
    chosen: ThresholdPoint
    points: list[ThresholdPoint]
    references: dict[str, ThresholdPoint]
    qualities: list[Quality]
    wrong_way: list[str]
    score: Quality | None
    reliability: Reliability
    claim: str
    task: dict[str, Any]
    target: dict[str, Any]
    draft: dict[str, Any]
    seed: int
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str = ""
    date: str = ""
    overruling: Overruling | None = None
    reference: Reference | None = None
    version: int = field(default=VERSION)

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the signals in the score, by name."""
        named: list[str] = list(self.parameters["signals"])
        return dict(zip(named, self.parameters["weights"], strict=True))

    @property
    def measure(self) -> LabelSource:
        """The label source, with its words."""
        return LABEL_SOURCES[self.label_source]

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Load a calibration from a file.

        Raises:
            OptionError: the file cannot be read, or holds no calibration.
        """
        from pydantic import TypeAdapter, ValidationError

        adapter: Any = TypeAdapter(cls)
        try:
            text = path.read_text(encoding="utf-8")
            version = json.loads(text).get("version")
        except OSError as error:
            raise OptionError(f"{path} cannot be read ({error.strerror}).") from error
        except (ValueError, AttributeError) as error:
            raise OptionError(f"{path} holds no calibration.") from error
        if version != VERSION:
            raise OptionError(
                f"{path} holds no calibration that this release can show (version {version}, not "
                f"{VERSION}); run `stet calibrate` again."
            )
        try:
            found: Calibration = adapter.validate_python(upgrade(json.loads(text)))
        except ValidationError as error:
            raise OptionError(
                f"{path}: not a calibration ({first_problem(error, 'the file')})."
            ) from error
        if found.label_source not in LABEL_SOURCES:
            raise OptionError(f"{path}: there is no label source {found.label_source!r}.")
        return replace(found, parameters=located(found.parameters, path))

    def save(self, path: Path) -> None:
        """Write the calibration to a file, replacing one of that name atomically.

        A trained signal is copied to a folder beside it, which the file names.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        record = asdict(self)
        if (head := self.parameters.get(FOLDER)) is not None:
            beside = f"{path.stem}-{FOLDER}"
            if Path(head).resolve() != (path.parent / beside).resolve():
                shutil.copytree(head, path.parent / beside, dirs_exist_ok=True)
            record["parameters"] = {**self.parameters, FOLDER: beside}
        write_text(path, json_line(record, indent=1) + "\n")
