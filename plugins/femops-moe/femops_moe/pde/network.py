"""A Fourier neural operator on a plane grid (Li et al., ICLR 2021, arXiv 2010.08895)."""

from femops.devices.torch_library import Tensor, torch

_FIRST = 0.1  # size of the initial output, relative to that of an ordinary layer


class FourierOperator(torch.nn.Module):
    """Maps fields on a grid to fields on the grid.

    Args:
        n_inputs: Number of input fields.
        n_outputs: Number of output fields.
        width: Number of fields in the hidden layers.
        layers: Number of hidden layers.
        frequencies: Number of frequencies kept along each axis.
        seed: Seed of the weights.
    """

    def __init__(self, n_inputs: int, n_outputs: int, width: int, layers: int, frequencies: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lift = torch.nn.Conv2d(n_inputs, width, 1)
            self.layers = torch.nn.ModuleList(_Layer(width, frequencies) for _ in range(layers))
            self.project = torch.nn.Sequential(
                torch.nn.Conv2d(width, 2 * width, 1), torch.nn.GELU(), torch.nn.Conv2d(2 * width, n_outputs, 1)
            )
        with torch.no_grad():
            for weight in self.project[-1].parameters():
                weight.mul_(_FIRST)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (n, n_outputs, a, b) of inputs (n, n_inputs, a, b)."""
        hidden = self.lift(inputs)
        for layer in self.layers:
            hidden = layer(hidden)
        found: Tensor = self.project(hidden)
        return found


class _Layer(torch.nn.Module):
    """A linear map of the lowest frequencies, and one of the values at each point."""

    def __init__(self, width: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        shape = 2, frequencies, frequencies, width, width, 2  # both signs along the first axis; real and imaginary part
        self.spectral = torch.nn.Parameter(torch.randn(shape) / width)
        self.pointwise = torch.nn.Conv2d(width, width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the next fields (n, width, a, b)."""
        kept, given = self.frequencies, torch.fft.rfft2(hidden, norm="forward")
        weights, found = torch.view_as_complex(self.spectral), torch.zeros_like(given)
        for sign, rows in enumerate((slice(0, kept), slice(-kept, None))):
            found[..., rows, :kept] = torch.einsum("nixy,xyio->noxy", given[..., rows, :kept], weights[sign])
        smooth = torch.fft.irfft2(found, hidden.shape[-2:], norm="forward")
        return torch.nn.functional.gelu(smooth + self.pointwise(hidden)) + hidden
