"""The folder of a run: opened, and written when all is measured."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate.state import PartialState

from domadapt import checkpoint
from domadapt.adaptation.measure import Measured, shape_of
from domadapt.devices import is_main_process
from domadapt.errors import DomadaptError
from domadapt.export import export_onnx, export_pt2
from domadapt.network import Network
from domadapt.report.page import render
from domadapt.report.report import Report
from domadapt.runs.candidate import RESULT
from domadapt.runs.plan import Plan, keep_source, spec_dict
from domadapt.runs.saved import (
    CLASSIFIER,
    CONFIG,
    CONFIG_SCHEMA,
    ENCODER,
    EXPORT,
    FAILED,
    OWN_RULE,
    PAGE,
    PREDICTIONS,
    REPORT,
    failure,
    prediction_table,
    save_model,
    value_table,
)
from domadapt.selection.calibration import Calibration
from domadapt.task import UNKNOWN, Task

#: Temporary names under which `checkpoint.write_atomically`, and safetensors within it, write.
_HALF_WRITTEN = re.compile(
    r"\..+\.(safetensors|json|html|csv|pt2|onnx|npy)\.[a-z0-9_]{8}|\.tmp[A-Za-z0-9]{6}"
)


def check_folder(folder: Path | None, resume: bool) -> None:
    """Refuse to go on with what is no unfinished run, and to write over one.

    A run that diverged is neither: it may be begun anew with other settings.
    """
    if resume and (folder is None or not folder.is_dir()):
        raise DomadaptError(f"Only a run's folder can be gone on with; there is none at {folder}.")
    if folder is None:
        return
    if resume and (folder / CONFIG).exists():
        raise DomadaptError(
            f"The run in {folder} is finished: nothing is left to do. `domadapt predict {folder} "
            "DATA` uses its model; for another run choose another folder."
        )
    reason = failure(folder)
    if resume and reason:
        raise DomadaptError(
            f"To go on with the run in {folder} would end as before: {reason} Give its command "
            "again with other settings; a training that they do not change is kept."
        )
    if not (resume or reason) and any(
        (folder / held).exists() for held in ("run.json", "candidates", CONFIG)
    ):
        raise DomadaptError(
            f"{folder} already holds a run. Choose another folder with --out, go on with it "
            f"(--resume {folder}), or delete it."
        )


def keep_failure(folder: Path, reason: str) -> None:
    """Note that the run in a folder diverged."""
    if is_main_process():
        checkpoint.write_json(folder / FAILED, {"reason": reason})


def open_folder(
    folder: Path, request: Mapping[str, Any] | None, keys: Collection[str] = ()
) -> None:
    """Make a run's folder, keep what was asked for, and drop what a killed run half wrote.

    Of a run that diverged the trainings stay that ended and whose key is among `keys`.
    """
    # No process may look for an older run after the first has begun to write this one.
    PartialState().wait_for_everyone()
    if not is_main_process():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.rglob(".*"):
            if _HALF_WRITTEN.fullmatch(file.name):
                file.unlink()
        if request is not None:
            checkpoint.write_json(folder / "run.json", request)
        if failure(folder):
            for place in [p for p in folder.glob("**/candidates/*") if p.is_dir()]:
                ended = place / RESULT
                if not (ended.exists() and checkpoint.read_json(ended).get("key") in keys):
                    shutil.rmtree(place)
            # Last: a run that is killed in between is still one that may be begun anew.
            (folder / FAILED).unlink()
    except OSError as error:
        raise DomadaptError(
            f"The run needs a folder that can be written to; {folder} cannot "
            f"({error.strerror}). Choose another with --out."
        ) from error


def save(
    folder: Path,
    plan: Plan,
    task: Task,
    chosen: Measured,
    report: Report,
    export: Sequence[str],
    calibration: Calibration | None,
) -> Report:
    """Write a run's folder; returns the report with what could not be written as warnings."""
    network = chosen.network
    unknown = save_model(folder, network, task)
    only_export = plan.spec.name == "module" or unknown.get(UNKNOWN) == OWN_RULE
    classes = len(task.output_names)
    program = network if calibration is None else calibration.apply(network, classes)
    makers = {"pt2": (export_pt2, EXPORT), "onnx": (export_onnx, "model.onnx")}
    for what in sorted(({*export, "pt2"} if only_export else set(export)) - {"hf"}):
        make, file = makers[what]
        try:
            make(program, plan.example, folder / file)
        except DomadaptError as error:
            # A model that cannot be exported is trained all the same: nothing of it is thrown away.
            report = replace(report, warnings=[*report.warnings, f"{file} is missing: {error}"])
    kept = keep_source(plan.spec, folder)
    if "hf" in export:
        try:
            _save_classifier(folder, plan, task, network, calibration)
        except DomadaptError as error:
            said = f"{CLASSIFIER} is missing: {error}"
            report = replace(report, warnings=[*report.warnings, said])
    tables = []
    for split in (task.target_train, task.target_test):
        if split.name in chosen.predictions:
            p = chosen.predictions[split.name]
            if task.regression:
                table = value_table(split.ids(), p, task.class_names)
            else:
                table = prediction_table(split.ids(), p, task.output_names)
            table.insert(1, "split", split.name)
            tables.append(table)
    csv = pd.concat(tables).to_csv(index=False)
    checkpoint.write_text(folder / PREDICTIONS, csv)
    checkpoint.write_text(folder / REPORT, report.to_json())
    checkpoint.write_text(folder / PAGE, render(report))
    config = {
        "schema": CONFIG_SCHEMA,
        "kind": task.kind,
        "task": task.name,
        **({"task_type": "regression"} if task.regression else {}),
        "class_names": list(task.class_names),
        **unknown,
        "model": {
            "spec": spec_dict(plan.spec),
            "input": shape_of(plan),
            **kept,
        },
        "views": plan.input_views.config(),
        "columns": getattr(task.example.domain.samples, "columns", None),
        "method": {"name": chosen.candidate.method, "settings": chosen.candidate.settings},
        **({} if calibration is None else {"calibration": _calibration_of(calibration, task)}),
        "training": report.training,
        "seed": report.seed,
        "versions": report.versions,
    }
    # Written last: a folder that has it is a finished run.
    checkpoint.write_json(folder / CONFIG, config)
    return report


def _save_classifier(
    folder: Path, plan: Plan, task: Task, network: Network, calibration: Calibration | None
) -> None:
    """Write the network as a classifier of Hugging Face."""
    from domadapt.hf.saving import save_classifier

    save_classifier(
        network,
        folder / ENCODER,
        folder / CLASSIFIER,
        task.class_names,
        regression=task.regression,
        max_length=plan.input_views.config().get("max_length"),
        calibration=None if calibration is None else _calibration_of(calibration, task),
    )


def _calibration_of(calibration: Calibration, task: Task) -> dict[str, Any]:
    """Temperature and offset as plain values."""
    offset = calibration.offset(len(task.output_names)).tolist()
    return {"temperature": calibration.temperature, "offset": offset}
