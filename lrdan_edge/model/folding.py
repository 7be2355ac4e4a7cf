"""Batch normalisation folded into convolutions."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module) -> None:
    """Fold every batch normalisation into the convolution before it, in place.

    Args:
        network: AE2 in evaluation mode; its outputs do not change.
    """
    for layers in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place in range(len(layers) - 1):
            convolution, norm = layers[place], layers[place + 1]
            if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                transposed = isinstance(convolution, nn.ConvTranspose2d)
                layers[place] = fuse_conv_bn_eval(convolution, norm, transpose=transposed)
                layers[place + 1] = nn.Identity()
