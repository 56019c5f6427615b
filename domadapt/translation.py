"""BLEU of generated texts, by sacrebleu: the one metric here of models that write texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from domadapt.errors import DomadaptError


@dataclass(frozen=True)
class Bleu:
    """A BLEU score, as sacrebleu gives it.

    Attributes:
        bleu: in [0, 100].
        precisions: of n-grams of 1 to 4 words, in percent.
        brevity_penalty: in (0, 1]; below 1 where the outputs are shorter than the references.
        n: pairs of texts.
        signature: how it was computed, to be given with the score.
    """

    bleu: float
    precisions: tuple[float, ...]
    brevity_penalty: float
    n: int
    signature: str


def bleu(outputs: Sequence[str], references: Sequence[str]) -> Bleu:
    """Corpus BLEU of `outputs` against one reference each.

    ``BP * exp(mean_n log p_n)``, p_n the clipped precision of n-grams up to 4 words, BP the brevity
    penalty, with sacrebleu's default tokens and smoothing. Source: Papineni et al. (2002),
    doi:10.3115/1073083.1073135; Post (2018), arXiv:1804.08771, for how it must be reported.

    Raises:
        DomadaptError: the numbers of texts differ or are 0, or sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise DomadaptError("BLEU needs the extra: pip install 'domadapt[bleu]'.") from error
    if len(outputs) != len(references) or not outputs:
        raise DomadaptError(
            f"BLEU needs one reference for each text; got {len(outputs)} texts and "
            f"{len(references)} references."
        )
    metric = BLEU()
    found = metric.corpus_score(list(outputs), [list(references)])
    return Bleu(
        float(found.score),
        tuple(float(p) for p in found.precisions),
        float(found.bp),
        len(outputs),
        str(metric.get_signature()),
    )


def read_lines(path: Path | str) -> list[str]:
    """The texts of a UTF-8 file, one per line.

    Raises:
        DomadaptError: there is no such file, or it is no text.
    """
    file = Path(path)
    if not file.is_file():
        raise DomadaptError(
            f"BLEU compares two text files, one text per line: first what a model wrote, then the "
            f"references; there is no file {file}."
        )
    try:
        # Not splitlines, which also ends a line at characters that stand within a text.
        said = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DomadaptError(f"{file} is not a UTF-8 text file ({error.reason}).") from error
    return [line.rstrip("\r") for line in said.removesuffix("\n").split("\n")] if said else []
