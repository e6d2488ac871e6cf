"""ReLU with a pseudo-derivative: the op, the module, the conversion of models, the control.

The forward pass is `torch.relu` itself. Only the backward pass differs: `grad_input =
grad_output * g(input)`.
"""

from pdsearch.autograd.control import forward_control
from pdsearch.autograd.conversion import convert, replace_relus
from pdsearch.autograd.module import PDReLU, exact_gradients, relu_modules, set_progress
from pdsearch.autograd.op import pd_relu
from pdsearch.autograd.sites import Site, relu_sites

__all__ = [
    "PDReLU",
    "Site",
    "convert",
    "exact_gradients",
    "forward_control",
    "pd_relu",
    "relu_modules",
    "relu_sites",
    "replace_relus",
    "set_progress",
]
