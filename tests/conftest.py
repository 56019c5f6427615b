"""Shapes of losses and operators are checked while the tests run; one thread, for equal bits."""

import torch
from jaxtyping import install_import_hook

# Before anything imports them.
install_import_hook(["domadapt.losses", "domadapt.ops"], "beartype.beartype")
torch.set_num_threads(1)
