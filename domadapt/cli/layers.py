"""``domadapt transferability layers``: which blocks of a model carry the transfer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from domadapt.cli.common import DataRoot, GroupColumn, LabelColumn, TextColumn, load, say
from domadapt.cli.flags import training_flags
from domadapt.cli.transferability import group
from domadapt.errors import DomadaptError


@group.command()
@training_flags
def layers(
    model: Annotated[
        str,
        typer.Argument(
            help="Pre-trained model: a backbone with its weights (resnet20=weights.th), "
            "file.py:function, or the folder of a run."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="The labelled downstream data: image folder, table, .npz arrays, or "
            "collection:domain. A part is held out for the scores."
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(help="Data of another domain; labels, if any, are scored, too."),
    ] = None,
    studies: Annotated[
        str,
        typer.Option(
            help="What to study, with commas: progressive, localised, inverse, permutation, "
            "probing, anb, anb+, criticality, cka."
        ),
    ] = "progressive,localised,probing",
    sizes: Annotated[
        str, typer.Option(help="Numbers of training samples, with commas: full,5000,500.")
    ] = "full,500",
    seeds: Annotated[str, typer.Option(help="How many, or which: 3, or 0,1,2.")] = "3",
    out: Annotated[
        Path, typer.Option(help="Folder of cells, figure and page; the same one goes on.")
    ] = Path("runs/layers"),
    init: Annotated[
        Literal["own", "released", "bert", "permute"],
        typer.Option(
            help="What re-initialised weights become: as the model begins; near zero, as the "
            "paper's released code; N(0, 0.02) cut at two deviations; or their own values in "
            "random order.",
            rich_help_panel="Re-initialisation",
        ),
    ] = "own",
    biases: Annotated[
        Literal["zero", "keep"],
        typer.Option(help="Biases of such blocks.", rich_help_panel="Re-initialisation"),
    ] = "zero",
    norms: Annotated[
        Literal["reset", "keep"],
        typer.Option(
            help="Their normalisation layers: scale 1, shift 0 and new statistics, or kept.",
            rich_help_panel="Re-initialisation",
        ),
    ] = "reset",
    window: Annotated[
        int,
        typer.Option(
            help="Blocks in a window of localised and inverse.",
            rich_help_panel="Re-initialisation",
        ),
    ] = 1,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="Modules of the backbone that are the blocks, in order, with commas. Default: "
            "its longest chain.",
            rich_help_panel="Re-initialisation",
        ),
    ] = None,
    orders: Annotated[
        int,
        typer.Option(help="Random orders of permutation.", rich_help_panel="Re-initialisation"),
    ] = 5,
    metric: Annotated[
        str | None,
        typer.Option(
            help="accuracy, macro_f1, per_class_mean or auroc; of measurements r2 or spearman."
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training samples, in place of --steps (default 300).",
            rich_help_panel="Training",
        ),
    ] = None,
    noise: Annotated[
        float,
        typer.Option(
            help="Deviation of the noise on rewound blocks (criticality); 0: none.",
            rich_help_panel="Looks",
        ),
    ] = 0.0,
    tolerance: Annotated[
        float,
        typer.Option(help="Loss of score that criticality allows.", rich_help_panel="Looks"),
    ] = 0.01,
    plain_cka: Annotated[
        bool,
        typer.Option(
            "--plain-cka",
            help="The plain estimate of CKA instead of the unbiased one.",
            rich_help_panel="Looks",
        ),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(help="Processes. Default: the cores over --threads, or one per GPU."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each process.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    data_root: DataRoot = None,
    task_type: Annotated[
        Literal["classification", "regression"],
        typer.Option(
            help="Whether labels are classes or measurements (of several columns: a,b).",
            rich_help_panel="Data",
        ),
    ] = "classification",
    extra_classes: Annotated[
        Literal["error", "unscored"],
        typer.Option(
            help="Target samples of classes that the source lacks: refused, or not scored.",
            rich_help_panel="Data",
        ),
    ] = "error",
    image_size: Annotated[
        int | None, typer.Option(help="Side images are brought to.", rich_help_panel="Data")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="Augmentation while fine-tuning. Default: the data's own.",
            rich_help_panel="Data",
        ),
    ] = None,
    text_column: TextColumn = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Where texts are cut, in tokens. Default: 128, or the model's limit.",
            rich_help_panel="Data",
        ),
    ] = None,
    pooling: Annotated[
        Literal["mean", "first"] | None,
        typer.Option(
            help="How an encoder hf:... makes one vector of a text. Default: mean.",
            rich_help_panel="Data",
        ),
    ] = None,
    **training: Any,
) -> None:
    """Study which blocks of a pre-trained model a task makes use of, and draw one figure of it.

    Killed at any moment, the same command goes on; several at once share the cells of a folder.
    """
    import torch

    from domadapt import checkpoint
    from domadapt.hf.reading import is_hf, reads
    from domadapt.layers.figure import figure
    from domadapt.layers.page import render
    from domadapt.layers.reinitialise import Reset
    from domadapt.layers.settings import Settings
    from domadapt.layers.study import layers as study_layers
    from domadapt.layers.tables import markdown, terminal
    from domadapt.report.drawing import save_png, to_svg
    from domadapt.runs import engine

    given = {k: v for k, v in training.items() if v is not None and k != "seed"}
    if training.get("seed") is not None:
        raise DomadaptError("A study has several seeds: give --seeds, such as --seeds 0,1,2.")
    if threads < 1 or (processes is not None and processes < 1):
        raise DomadaptError(
            f"processes and threads must be at least 1; got {processes} and {threads}."
        )
    settings = Settings(
        studies=tuple(_parts(studies)),
        sizes=tuple(_size(part) for part in _parts(sizes)),
        seeds=_seeds(seeds),
        how=Reset(init, biases, norms),
        window=window,
        blocks=None if blocks is None else tuple(_parts(blocks)),
        orders=orders,
        metric=metric,
        training=given,
        epochs=epochs,
        noise=noise,
        tolerance=tolerance,
        unbiased=not plain_cka,
    )
    regression = task_type == "regression"
    more: dict[str, Any] = {"regression": regression}
    if text_column is not None or (is_hf(model) and reads(model) == "text"):
        more["text_column"] = text_column or "auto"
    source = load(data, label_column, group_column, data_root, labelled=True, **more)
    other = None
    if target is not None:
        other = load(target, label_column, group_column, data_root, **more)
    gpus = torch.cuda.device_count() if given.get("device") != "cpu" else 0
    found = study_layers(
        model,
        source,
        other,
        out=out,
        settings=settings,
        image_size=image_size,
        augment=augment,
        max_length=max_length,
        pooling=pooling,
        extra_classes=extra_classes == "unscored",
        processes=engine.divided(threads, gpus) if processes is None else processes,
        threads=threads,
        retry=retry,
        say=lambda line: say(line, error=True),
    )
    say(terminal(found))
    drawn = figure(found)
    texts = {
        "layers.md": markdown(found),
        "layers.svg": to_svg(drawn, "layers"),
        "layers.html": render(found),
    }
    for name, text in texts.items():
        checkpoint.write_text(out / name, text)
    save_png(drawn, out / "layers.png")
    say(f"{out} holds layers.html, layers.json, layers.md, layers.png and layers.svg.")


def _parts(said: str) -> list[str]:
    return [part.strip() for part in said.split(",") if part.strip()]


def _size(said: str) -> int | str:
    if said == "full":
        return said
    if not re.fullmatch(r"\d+", said):
        raise DomadaptError(
            f"--sizes takes numbers of training samples and full, with commas; got {said!r}."
        )
    return int(said)


def _seeds(said: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*,?", said) or said == "0":
        raise DomadaptError(f"--seeds takes a number, or seeds with commas: 0,1,2; got {said!r}.")
    numbers = [int(part) for part in said.split(",") if part]
    return tuple(numbers) if "," in said else tuple(range(numbers[0]))
