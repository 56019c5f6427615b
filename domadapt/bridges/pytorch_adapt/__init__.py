"""Hooks and validators of pytorch-adapt under this trainer, this label firewall and this report.

Needs the extra: ``pip install 'domadapt[pytorch-adapt]'``. Nothing of it is imported before a hook
or a validator is asked for. `--method pytorch_adapt:DANNHook` runs a hook as it comes; a hook with
arguments is a subclass of `HookMethod` in a file of one's own. `validator` makes scores of
`domadapt.evaluation.Outputs`.

How its losses relate to those of this package, on the same tensors (the tests show each):

- Its weighters take the mean of a phase's losses, a sum is minimised here; weights given to a
  weighter are kept.
- `DANNHook`: ``src_domain_loss + target_domain_loss`` is twice `losses.adversarial.domain_loss`
  of the negated domain logits, because there the source is 0 and here it is 1, and a half is
  missing there. Its reversal has the constant weight 1 where `dann` ramps up from 0.
- `CDANHook`: two phases instead of a reversal. The discriminator's losses are as above, on the
  outer product of features and predictions. The encoder lowers the cross-entropy of the *swapped*
  labels: at a sample with domain logit d that is the reversed gradient times ``exp(-d)`` of a
  source and ``exp(d)`` of a target sample, so it does not fade where the discriminator is sure.
  The predictions carry a gradient there; `cdan` takes them as constants.
- `CDANEHook`: its entropy weights are divided by their maximum, those of `domain_loss` by their
  sum, so a domain's loss there is smaller by ``mean w / max w``.
- `MCCLoss`: `losses.prediction.mcc`; its temperature is 1 by default where that of `mcc` is 2.5.
- `MMDLoss(mmd_type="quadratic")`: `losses.mmd.mmd` with the unbiased estimator. There the scale is
  the median over the pairs of source samples, each with itself included, and one kernel stands
  alone; here it is the median over both domains, with five kernels. The default there is "linear",
  which pairs neighbours in the batch and so needs two batches of one size.
"""

from __future__ import annotations

from domadapt.bridges.pytorch_adapt.method import HookMethod, hook_method, hook_names, why_not
from domadapt.bridges.pytorch_adapt.validators import Score, validator, validator_names

__all__ = [
    "HookMethod",
    "Score",
    "hook_method",
    "hook_names",
    "validator",
    "validator_names",
    "why_not",
]
