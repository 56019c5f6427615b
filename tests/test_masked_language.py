"""Hidden words: what is hidden, the loss against the library's own, and what is built on it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra: pip install 'domadapt[text]'")

from small import same_bits, small_network
from tiny import VOCABULARY, text_task, texts, tiny_bert

from domadapt.errors import DomadaptError
from domadapt.hf.encoder import Encoder, build_encoder, tokenizer_of
from domadapt.hf.masked import MaskedLanguage, hide_tokens
from domadapt.methods import build_method
from domadapt.network import Network
from domadapt.runs.candidate import train_candidate
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.strategies.self_supervised import check_self_supervised, self_supervised
from domadapt.training import Training

KINDS = ["bert", "roberta", "distilbert"]


def with_head(folder: Path, kind: str = "bert") -> str:
    """A tiny encoder whose folder has the weights of its head for hidden words too."""
    import transformers

    name = tiny_bert(folder, kind)
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(1)
    model = transformers.AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    return name


def batch_of(name: str, n: int = 20) -> dict[str, torch.Tensor]:
    return tokenizer_of(name)(texts("books", n)[0])


def test_what_is_hidden() -> None:
    torch.manual_seed(0)
    ids = torch.randint(5, 1000, (200, 500))
    words = torch.rand(ids.shape) < 0.9
    hidden, chosen = hide_tokens(ids, words, 4, 1000)
    assert not (chosen & ~words).any()
    assert torch.equal(hidden[~chosen], ids[~chosen])
    assert chosen[words].float().mean().item() == pytest.approx(0.15, abs=0.005)
    masked = hidden[chosen] == 4
    same = hidden[chosen] == ids[chosen]
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert same.float().mean().item() == pytest.approx(0.1, abs=0.01)
    other = hidden[chosen][~masked & ~same]
    assert other.float().mean().item() == pytest.approx(500, rel=0.03)


def test_the_same_draws_hide_the_same_tokens() -> None:
    ids, words = torch.randint(5, 50, (8, 20)), torch.ones(8, 20, dtype=torch.bool)
    draws = [hide_tokens(ids, words, 4, 50, 0.3, torch.Generator().manual_seed(2)) for _ in "ab"]
    assert torch.equal(draws[0][0], draws[1][0])
    everything = hide_tokens(ids, words, 4, 50, 1.0)[1]
    assert everything.all()


@pytest.mark.parametrize("pooling", ["mean", "hf"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_one_of_the_library(tmp_path: Path, kind: str, pooling: str) -> None:
    import transformers

    name = with_head(tmp_path, kind)
    encoder, _ = build_encoder(name, pooling=pooling)
    language = MaskedLanguage(encoder.eval()).eval()
    whole = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    x = batch_of(name)
    found = language(x, torch.Generator().manual_seed(3))
    words = x["attention_mask"].bool() & ~torch.isin(x["input_ids"], language.special)
    generator = torch.Generator().manual_seed(3)
    size = len(VOCABULARY)
    hidden, chosen = hide_tokens(x["input_ids"], words, language.mask_id, size, 0.15, generator)
    assert chosen.any()
    wanted = whole(
        input_ids=hidden,
        attention_mask=x["attention_mask"],
        labels=torch.where(chosen, x["input_ids"], -100),
    ).loss
    torch.testing.assert_close(found, wanted)
    # The same gradient at the embeddings, which are the last layer as well.
    table = encoder.model.get_input_embeddings().weight  # type: ignore[operator]
    (mine,) = torch.autograd.grad(found, table)
    (its,) = torch.autograd.grad(wanted, whole.get_input_embeddings().weight)
    torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_has_no_part_of_the_encoder(tmp_path: Path, kind: str) -> None:
    encoder, _ = build_encoder(with_head(tmp_path, kind))
    language = MaskedLanguage(encoder)
    assert not {id(p) for p in language.parameters()} & {id(p) for p in encoder.parameters()}
    size, width = len(VOCABULARY), 16
    assert all(p.shape != (size, width) for p in language.parameters())
    twice = [id(p) for _, p in language.named_parameters(remove_duplicate=False)]
    assert len(twice) == len(set(twice))
    copied = copy.deepcopy(torch.nn.ModuleList([encoder, language]))
    assert copied[1]._encoder[0] is copied[0]


def test_a_head_that_is_not_at_hand_is_new_and_drawn_from_the_seed(tmp_path: Path) -> None:
    encoder, _ = build_encoder(tiny_bert(tmp_path))

    def built(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return MaskedLanguage(encoder)

    assert same_bits(built(0), built(0))
    assert not same_bits(built(0), built(1))


def test_no_hidden_token_gives_a_loss_of_zero(tmp_path: Path) -> None:
    name = tiny_bert(tmp_path)
    encoder, _ = build_encoder(name)
    language = MaskedLanguage(encoder, share=1e-9)
    loss = language(batch_of(name, 2))
    assert loss.item() == 0
    assert loss.requires_grad


def training(**more: object) -> Training:
    return Training(**{"steps": 4, "batch_size": 8, "device": "cpu", "lr": 3e-3, **more})  # type: ignore[arg-type]


def test_guessing_words_is_learnt(tmp_path: Path) -> None:
    plan = make_plan(text_task(), ModelSpec(tiny_bert(tmp_path)))
    network = plan.make_network(0)
    head = copy.deepcopy(network.head)
    losses = self_supervised(network, plan.task, plan.views, training(self_supervised="mlm:150"))
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    assert same_bits(network.head, head)
    again = plan.make_network(0)
    self_supervised(again, plan.task, plan.views, training(self_supervised="mlm:150"))
    assert same_bits(again, network)


def test_udalm_goes_on_from_it(tmp_path: Path) -> None:
    plan = make_plan(text_task(), ModelSpec(tiny_bert(tmp_path)))
    how = training(self_supervised="mlm:3")
    trained = train_candidate(plan, "udalm", {}, how)
    plain = train_candidate(plan, "udalm", {}, training())
    assert not same_bits(trained.network, plain.network)
    # Its head for words is thrown away.
    assert trained.network.state_dict().keys() == plan.make_network(0).state_dict().keys()


def test_it_combines_with_a_method_that_reads_the_target(tmp_path: Path) -> None:
    plan = make_plan(text_task(), ModelSpec(tiny_bert(tmp_path)))
    trained = train_candidate(plan, "udalm+dann", {}, training())
    curves = " ".join(trained.history)
    assert "udalm.mlm" in curves
    assert "dann.domain" in curves


def test_what_it_is_not_for(tmp_path: Path) -> None:
    import transformers

    with pytest.raises(DomadaptError, match="needs an encoder of texts"):
        build_method("udalm", small_network())
    encoder, _ = build_encoder(tiny_bert(tmp_path / "a"))
    with pytest.raises(DomadaptError, match=r"must lie in \(0, 1\]; got 0"):
        MaskedLanguage(encoder, share=0.0)
    network = Network(encoder, torch.nn.Linear(16, 2))
    plan = make_plan(text_task(), ModelSpec(tiny_bert(tmp_path / "b")))
    with pytest.raises(DomadaptError, match="choose mlm"):
        check_self_supervised(training(self_supervised="simclr"), plan.task, network)
    config = transformers.GPT2Config(
        vocab_size=len(VOCABULARY), n_embd=16, n_layer=1, n_head=2, n_positions=66
    )
    decoder = Encoder(transformers.GPT2Model(config), "mean", 0)
    decoder.masking = (4, (0,))
    with pytest.raises(DomadaptError, match="no head that guesses hidden tokens"):
        MaskedLanguage(decoder)
