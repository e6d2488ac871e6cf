"""ReLU with a pseudo-derivative: the op, the module, the conversion of models, the control.

The forward pass is `torch.relu` itself. Only the backward pass differs: `grad_input =
grad_output * g(input)`.
"""

from pdsearch.autograd.control import forward_control
from pdsearch.autograd.module import PDReLU, convert, relu_modules, set_progress
from pdsearch.autograd.op import pd_relu

__all__ = ["PDReLU", "convert", "forward_control", "pd_relu", "relu_modules", "set_progress"]
