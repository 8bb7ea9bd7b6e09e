"""The Fourier neural operator (arXiv 2010.08895)."""

from femops.devices.torch_library import Tensor, torch

_WIDTH, _MODES, _LAYERS = 32, 12, 4
_PADDING = 7 / 32  # of the side


class _FourierLayer(torch.nn.Module):
    """Spectral convolution beside a pointwise map."""

    def __init__(self) -> None:
        super().__init__()
        shape = (2, _WIDTH, _WIDTH, _MODES, _MODES)
        self.weight = torch.nn.Parameter(torch.randn(shape, dtype=torch.cfloat) / _WIDTH**2)
        self.pointwise = torch.nn.Conv2d(_WIDTH, _WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x)
        new, m = torch.zeros_like(spectrum), _MODES
        for rows, weight in zip((slice(0, m), slice(-m, None)), self.weight, strict=True):
            new[:, :, rows, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, rows, :m], weight)
        return torch.fft.irfft2(new, s=x.shape[-2:]) + self.pointwise(x)


class FourierOperator(torch.nn.Module):
    """FNO from input channels on a grid to one value."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lift = torch.nn.Conv2d(channels, _WIDTH, 1)
        self.layers = torch.nn.ModuleList(_FourierLayer() for _ in range(_LAYERS))
        self.project = torch.nn.Sequential(torch.nn.Conv2d(_WIDTH, 128, 1), torch.nn.GELU(), torch.nn.Conv2d(128, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        padding = round(_PADDING * (x.shape[-1] - 1))
        x = torch.nn.functional.pad(self.lift(x), (0, padding, 0, padding))
        for number, layer in enumerate(self.layers):
            x = layer(x) if number == _LAYERS - 1 else torch.nn.functional.gelu(layer(x))
        return self.project(x[..., :-padding, :-padding])[:, 0]
