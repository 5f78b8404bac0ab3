"""Q-Former (BLIP-2, arXiv 2301.12597): learned queries that attend to each other and to a view's features.

Post-norm layers as in BERT. Legend: V views, Q queries, N features of a view, C their width, D the Q-Former's width.
"""

from torch import Tensor, nn

from configs.projectors import QFormerProjector
from pretrain.model.activations import ACTIVATIONS
from pretrain.model.attention import attend_views
from pretrain.model.learned import Learned
from pretrain.model.linear import Builder, WholeLinear
from pretrain.model.norm import Norm


class Attention(nn.Module):
    """norm(x + attention(x, source)), [V, Q, D] on [V, N, C] -> [V, Q, D]."""

    def __init__(self, build: Builder, name: str, config: QFormerProjector, source: int):
        super().__init__()
        width = config.width
        self.head = width // config.heads
        self.q = WholeLinear(build, f"{name}.q", width, width, bias=True)
        self.k = WholeLinear(build, f"{name}.k", source, width, bias=True)
        self.v = WholeLinear(build, f"{name}.v", source, width, bias=True)
        self.out = WholeLinear(build, f"{name}.out", width, width, bias=True)
        self.norm = Norm(build, f"{name}.norm", width, config.norm_eps, "layer")

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:2], -1, self.head)
        k, v = (part(source).view(*source.shape[:2], -1, self.head) for part in (self.k, self.v))
        return self.norm(x + self.out(attend_views(q, k, v).reshape(x.shape)))


class Layer(nn.Module):
    def __init__(self, build: Builder, number: int, config: QFormerProjector, channels: int):
        super().__init__()
        name, width = f"projector.layers.{number}", config.width
        self.activation = ACTIVATIONS[config.activation]
        self.own = Attention(build, f"{name}.own", config, width)
        crosses = number % config.cross_every == 0
        self.cross = Attention(build, f"{name}.cross", config, channels) if crosses else None
        self.up = WholeLinear(build, f"{name}.up", width, config.mlp_width, bias=True)
        self.down = WholeLinear(build, f"{name}.down", config.mlp_width, width, bias=True)
        self.norm = Norm(build, f"{name}.norm", width, config.norm_eps, "layer")

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        x = self.own(x, x)
        x = x if self.cross is None else self.cross(x, features)
        return self.norm(x + self.down(self.activation(self.up(x))))


class QFormer(nn.Module):
    """[V * N, C] -> [V * Q, W]."""

    def __init__(self, build: Builder, config: QFormerProjector, channels: int, width: int):
        super().__init__()
        self.queries = Learned(build, "projector.queries", config.queries, config.width, build.std)
        self.norm = Norm(build, "projector.norm", config.width, config.norm_eps, "layer")
        self.layers = nn.ModuleList(Layer(build, i, config, channels) for i in range(config.layers))
        self.out = WholeLinear(build, "projector.out", config.width, width, bias=True)

    def forward(self, x: Tensor, views: int) -> Tensor:
        features = x.reshape(views, -1, x.shape[-1])
        queries = self.norm(self.queries().to(x.dtype)).expand(views, -1, -1)
        for layer in self.layers:
            queries = layer(queries, features)
        return self.out(queries).reshape(-1, self.out.weight.shape[0])
