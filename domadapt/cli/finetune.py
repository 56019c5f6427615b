"""``domadapt finetune``: how to tune a pre-trained model for labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from domadapt.cli.common import (
    DataArgument,
    DataRoot,
    GroupColumn,
    LabelColumn,
    app,
    column_of_texts,
    load,
    say,
    write,
)
from domadapt.cli.flags import training_flags
from domadapt.errors import DomadaptError


@app.command("finetune")
@training_flags
def finetune_command(
    source: DataArgument,
    model: Annotated[
        str | None,
        typer.Option(help="Backbone; see `list models`. It needs --weights, or use --from."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Pre-trained weights of it: a file, or DEFAULT.")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="The folder of a run, whose network is tuned.")
    ] = None,
    finetune: Annotated[
        str,
        typer.Option(
            "--strategy",
            help="Strategies with commas: full, feature_extraction, partial:K, lp_ft, gradual, "
            "ulmfit, bitfit, adapters:WIDTH, lora:RANK, each with +discriminative, "
            "+layer_decay:RATE, +l2_sp.",
        ),
    ] = "full,lp_ft,feature_extraction",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare with training from scratch over training-set sizes; keeps no model.",
        ),
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="Other labelled data, with classes of their own: each strategy is also measured "
            "with an encoder that learns from all, a head for each. Again for more.",
        ),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Labelled data to score on. Default: folds take turns.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of cells, tables, page and model.")] = Path(
        "runs/finetune"
    ),
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Training-set sizes with commas: numbers, numbers of each class (5/class), all."
        ),
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Folds; 3, or 1 with --test.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each kind.")] = 1,
    accuracy: Annotated[
        float | None,
        typer.Option(
            help="Count steps to this accuracy, such as 0.9. Default: 95 % of what training from "
            "scratch ends with."
        ),
    ] = None,
    scratch_lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of training from scratch, which --optimizer, --lr and the like "
            "leave alone."
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Trainings at a time.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed trainings again.")] = False,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    data_root: DataRoot = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side images are brought to.", rich_help_panel="Data")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="Augmentation; see adapt.", rich_help_panel="Data")
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(help="Column of a table that holds texts.", rich_help_panel="Data"),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens that texts are cut to.", rich_help_panel="Data")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="Of a model of Hugging Face: mean, first or hf.", rich_help_panel="Data"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds and of what smaller sets hold.")] = 0,
    **training: Any,
) -> None:
    """Fine-tune a pre-trained model on labelled data: which strategy, and is it worth it?

    Killed at any moment, the same command goes on. Without --compare the best strategy is then
    trained on all the data and kept as a run in OUT/model.
    """
    if (model is None) == (from_ is None):
        raise DomadaptError(
            "finetune needs one pre-trained model: --model with --weights, or --from RUN."
        )
    if from_ is not None and weights is not None:
        raise DomadaptError("--weights are of a --model; a run has its own. Leave them out.")
    if out.exists() and not out.is_dir():
        raise DomadaptError(f"--out needs a folder, and {out} is a file; give another.")

    from domadapt.finetune.page import markdown, render, terminal
    from domadapt.finetune.study import finetune as study
    from domadapt.finetune.study import in_words, planned, save_model
    from domadapt.strategies.spec import read_strategy

    column = column_of_texts(text_column, None if from_ is None else str(from_), model)
    words = {"labelled": True, "text_column": column}
    texts = [part.strip() for part in finetune.split(",") if part.strip()]
    for text in texts:
        read_strategy(text)
    domain = load(source, label_column, group_column, data_root, **words)
    columns = getattr(domain.samples, "columns", None) if text_column is None else None
    scored = None
    if test is not None:
        scored = load(test, label_column, None, data_root, columns=columns, **words)
    others = [
        load(one, label_column, group_column, data_root, columns=columns, **words)
        for one in also or ()
    ]
    chosen = str(from_) if from_ is not None else f"{model}={weights}" if weights else str(model)
    asked = {k: v for k, v in training.items() if v is not None}
    options: dict[str, Any] = {
        "training": asked,
        "image_size": image_size,
        "augment": augment,
        "max_length": max_length,
        "pooling": pooling,
    }
    asked_for: dict[str, Any] = {
        "test": scored,
        "also": others,
        "compare": compare,
        "scratch_lr": scratch_lr,
        "sizes": None if sizes is None else sizes.split(","),
        "folds": folds,
        "seeds": seeds,
        "split_seed": seed,
    }
    if dry_run:
        _, wanted = planned(domain, chosen, texts, **asked_for, **options)
        say(in_words(wanted))
        say(f"Nothing was done. All would go to {out}.")
        return
    found = study(
        domain,
        chosen,
        texts,
        out=out,
        level=accuracy,
        **asked_for,
        processes=processes,
        retry=retry,
        say=lambda text: say(text, error=True),
        **options,
    )
    say(terminal(found))
    for name, text in (
        ("finetune.json", found.to_json()),
        ("finetune.md", markdown(found)),
        ("finetune.html", render(found)),
    ):
        write(out / name, text)
    more = ""
    if not compare:
        kept = save_model(found, domain, chosen, out, seed=seed, **options)
        more = (
            f" {out / 'model'} is a run with the model of {kept}, trained on all of {domain.name}: "
            f"`domadapt predict {out / 'model'} DATA`."
        )
    say(f"{out} holds finetune.html, finetune.md and finetune.json.{more}")
