# pyright: reportMissingImports=false
"""k-diffusion: its samplers.

``k_diffusion.sampling`` is loaded alone: the package's own ``__init__`` loads Inception networks,
CLIP and Weights & Biases; torchvision is stood in for by a hollow module.
"""

import sys
import types
from importlib.util import find_spec

from adapter import Adapter, Denoise, Run, Solver, serve, without
from torch import Tensor

without("torchvision", "torchvision.transforms")


def sampling():
    spec = find_spec("k_diffusion")
    assert spec is not None
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__spec__ = spec
    sys.modules.setdefault("k_diffusion", package)
    from k_diffusion import sampling

    return sampling


def sampler(name: str):
    def prepare(x: Tensor, steps: int) -> Run:
        rules = sampling()
        sigmas = rules.get_sigmas_karras(steps, 0.002, 80.0)
        rule = getattr(rules, name)
        return lambda: rule(lambda x, sigma: x, x * 80.0, sigmas, disable=True)

    return prepare


def solver(name: str) -> Solver:
    def solve(denoise: Denoise, noise: Tensor, calls: int) -> tuple[Tensor, float, float, Tensor]:
        rules, begin = sampling(), noise * 80.0
        steps = (calls + 1) // 2 if name == "sample_heun" else calls
        sigmas = rules.get_sigmas_karras(steps, 0.002, 80.0)
        model = lambda x, sigma: denoise(x, 1.0, float(sigma[0]))  # noqa: E731
        return begin, 1.0, 80.0, getattr(rules, name)(model, begin, sigmas, disable=True)

    return solve


RULES = {
    "Euler": "sample_euler",
    "Heun": "sample_heun",
    "DPM-Solver++ 2M": "sample_dpmpp_2m",
    "DDPM": "sample_euler_ancestral",
}

if __name__ == "__main__":
    samplers = {rule: sampler(name) for rule, name in RULES.items()}
    solvers = {rule: solver(name) for rule, name in RULES.items() if rule != "DDPM"}
    serve(Adapter("k-diffusion", samplers=samplers, solvers=solvers))
