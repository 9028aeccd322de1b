"""Transfer learning: a frozen network that was trained on other images, with a new head."""

import http.client
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights, list_models

from visionbench.errors import UserError
from visionbench.models.base import Classifier
from visionbench.models.ranges import check_counts, check_probabilities
from visionbench.models.weights import load_weights, read_weights

TIMM = "timm/"

# Methods that take the images of a batch. Where a subclass has one of its own, the features may be of other images.
ON_IMAGES = (
    *("forward", "training_step", "validation_step", "test_step", "predict_step"),
    *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
)


class AsPhotographs(nn.Module):
    """Converts images into the form that networks for photographs take: (B, 1 or 3, H, W) -> (B, 3, H', W').

    Args:
        min_size: Smallest length of the shorter side, in pixels; smaller images are enlarged.
    """

    def __init__(self, min_size: int) -> None:
        super().__init__()
        self.min_size = min_size

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        height, width = images.shape[2:]
        shorter = min(height, width)
        if shorter < self.min_size:
            size = [round(side * self.min_size / shorter) for side in (height, width)]
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        images = images.expand(-1, 3, -1, -1)
        if torch.is_autocast_enabled(images.device.type):  # half-precision convolutions are a third faster with it
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def extra_repr(self) -> str:  # noqa: D102
        return f"min_size={self.min_size}"


class TransferNetwork(nn.Sequential):
    """Conversion to photographs, a `backbone` without its classifier, and a `head`: Linear, ReLU, dropout, Linear.

    Args:
        input_shape: Shape of one image, (C, H, W).
        num_outputs: Number of outputs of the head.
        architecture: Name of a ResNet of torchvision, or timm/NAME for the model NAME of timm.
        min_size: Smallest length of the shorter side, in pixels; smaller images are enlarged.
        hidden: Number of nodes of the hidden layer of the head.
        dropout: Dropout probability after the hidden layer of the head; 0 for no dropout.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        architecture: str,
        min_size: int,
        hidden: int,
        dropout: float,
    ) -> None:
        if input_shape[0] not in (1, 3):
            raise UserError(
                f"The images have {input_shape[0]} channels, but a network for photographs takes 1 or 3; use CNN."
            )
        as_photographs = AsPhotographs(min_size)
        if architecture.startswith(TIMM):
            backbone = _timm_model(architecture)
            shape = as_photographs(torch.zeros(1, *input_shape)).shape
            try:
                with torch.no_grad():
                    features = backbone.eval()(torch.zeros(shape)).shape[1]
            except (RuntimeError, AssertionError, ValueError) as error:
                reason = str(error).rstrip(".")
                raise UserError(
                    f"{architecture} does not take images of {shape[2]} x {shape[3]} pixels ({reason}); set "
                    "model.min_size to a size that the architecture takes."
                ) from error
            backbone.train()
        else:
            backbone, features = _torchvision_resnet(architecture)
        head = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_outputs)
        )
        super().__init__(OrderedDict(as_photographs=as_photographs, backbone=backbone, head=head))

    def forward(self, inputs: Tensor) -> Tensor:
        """Computes the outputs.

        Args:
            inputs: Images, shape (B, C, H, W), or features that the backbone gave for them, shape (B, F).
        """
        *front, head = self
        if inputs.ndim != 2:
            for part in front:
                inputs = part(inputs)
        outputs: Tensor = head(inputs)
        return outputs


class FrozenResNet(Classifier):
    """A pretrained ResNet, by default frozen, with a new head that is trained.

    The parts of the network are `backbone`, the pretrained network without its classifier, and `head`. By default
    `freeze` is [backbone]. With `freeze: []` nothing is frozen: all parts are trained, and the pretrained weights are
    only the start (fine-tuning). With `architecture: timm/NAME` the backbone is the model NAME of the package timm,
    which need not be a ResNet.

    The defaults are the network of CSCI 5922 (Neural Nets and Deep Learning), Lab 1, February 2024, question 2: a
    ResNet-18 trained on ImageNet, and a head of 512-256-10 nodes; 11,310,410 parameters, of which 133,898 are trained.
    The batch norms of the frozen backbone stay in evaluation mode. The report does not state the dropout probability.

    Args:
        architecture: Name of a ResNet of torchvision, such as resnet18, resnext50_32x4d or wide_resnet50_2; or
            timm/NAME for the model NAME of timm, which `pip install "visionbench[timm]"` installs.
        weights: Weights that the backbone starts from: imagenet (downloaded once), none (random), or a path: a file
            of torchvision or timm, a checkpoint of FrozenResNet, or a run folder.
        min_size: Smallest length of the shorter side, in pixels; smaller images are enlarged.
        hidden: Number of nodes of the hidden layer of the head.
        dropout: Dropout probability after the hidden layer of the head; 0 for no dropout.
        freeze: Names of the parts of the network to freeze; an empty list trains all parts.
        cache_features: Whether the features that a frozen backbone gives for the images are computed once and kept in
            `features` in the folder of prepared data, in place of in each epoch. Augmented images have them computed
            once only with `views`.
        views: Number of augmented views of each training image whose features are computed once, in a run of one
            process; the epochs take them in turn. 0 augments the images anew in each epoch, and computes their features
            each time.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int],
        architecture: str = "resnet18",
        weights: str = "imagenet",
        min_size: int = 64,
        hidden: int = 256,
        dropout: float = 0.5,
        freeze: list[str] = ["backbone"],  # noqa: B006 - never modified, and shown by --help
        cache_features: bool = True,
        views: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, input_shape, freeze=freeze, **kwargs)
        check_counts(min_size=min_size, hidden=hidden)
        check_counts(0, views=views)
        check_probabilities(dropout=dropout)
        self.architecture = architecture
        self.weights = weights
        self.cache_features = cache_features
        self.views = views
        self.network = TransferNetwork(input_shape, self.num_outputs, architecture, min_size, hidden, dropout)

    def feature_extractor(self) -> nn.Module | None:
        """The conversion to photographs and the backbone, where the whole backbone is frozen and in evaluation mode.

        A subclass that does something of its own with the images gets them in each epoch.
        """
        if not isinstance(self.network, TransferNetwork) or type(self.network).forward is not TransferNetwork.forward:
            return None  # a user's own
        if any(getattr(type(self), name) is not getattr(Classifier, name) for name in ON_IMAGES):
            return None
        backbone = self.network.get_submodule("backbone")
        frozen = backbone in self.frozen and not any(p.requires_grad for p in backbone.parameters())
        if not (self.cache_features and frozen):
            return None
        return nn.Sequential(self.network.get_submodule("as_photographs"), backbone)

    def prepare_start(self, load: bool = True) -> None:
        """Loads the weights that training starts from, and freezes parts of the network; a second call does nothing.

        Args:
            load: Whether to load the weights; a resumed run needs none, because its checkpoint holds all weights.

        Raises:
            UserError: A part to freeze does not exist, or the weights cannot be read or do not fit this model; or views
                are asked for, although no features are computed once.
        """
        super().prepare_start(load)
        if self.views and load and self.feature_extractor() is None:
            why = (
                "model.cache_features is false"
                if not self.cache_features
                else f"{type(self).__name__} does something of its own with the images"
                if any(module is self.network.get_submodule("backbone") for module in self.frozen)
                else "the backbone is not frozen by model.freeze"
            )
            raise UserError(
                f"model.views is {self.views}, but no features are computed once, since {why}; set model.views to 0, "
                "which augments the images anew in each epoch."
            )

    def load_start(self) -> None:
        """Loads the weights of the backbone, or with `start_from` the weights of the whole network.

        Raises:
            UserError: The weights cannot be downloaded or read, or do not fit the network.
        """
        if self.start_from is not None or self.weights == "none":
            super().load_start()
            return
        backbone: nn.Module = self.network.get_submodule("backbone")
        if self.weights != "imagenet":
            file, weights = read_weights(Path(self.weights).expanduser())
        elif self.architecture.startswith(TIMM):
            file, weights = Path(self.architecture), _timm_model(self.architecture, pretrained=True).state_dict()
        else:
            file, weights = read_weights(_imagenet_file(self.architecture))
        if prefixed := {k: w for k, w in weights.items() if k.startswith("network.backbone.")}:
            weights = {name.removeprefix("network.backbone."): weight for name, weight in prefixed.items()}
        classifier = getattr(backbone, "pretrained_cfg", {}).get("classifier", "fc")  # a few models of timm have two
        layers = tuple(f"{layer}." for layer in ([classifier] if isinstance(classifier, str) else classifier or []))
        weights = {name: weight for name, weight in weights.items() if not name.startswith(layers)}
        load_weights(backbone, weights, file)
        self.start.set_weights(file, weights, reinitialized_layer="network.head")


def _torchvision_resnet(name: str) -> tuple[nn.Module, int]:
    """Builds a network without its last layer.

    Returns:
        The network, and the number of features that it outputs.
    """
    known = [n for n in list_models(include=["resnet*", "resnext*", "wide_resnet*"]) if "/" not in n]
    known = [n for n in known if not n.endswith(("_fpn", "_fpn_v2"))]
    if name not in known:
        raise UserError(
            f"model.architecture is {name!r}, expected one of {', '.join(known)}, or {TIMM}NAME for a model of timm."
        )
    network = get_model(name, weights=None)
    features: int = network.fc.in_features
    network.fc = nn.Identity()
    return network, features


def _imagenet_file(architecture: str) -> Path:
    """The file of torchvision's ImageNet weights, which is downloaded if it does not exist.

    Raises:
        UserError: The file cannot be downloaded; the message names the file and its folder.
    """
    url: str = get_model_weights(architecture).DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The file name ends with the first digits of the sha256.
        torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"The ImageNet weights of {architecture} cannot be downloaded ({error}); put {file.name} into "
            f"{file.parent}, or set --model.weights to another file or to none."
        ) from error
    return file


def _timm_model(architecture: str, pretrained: bool = False) -> nn.Module:
    """Builds a model of timm without its classifier.

    Args:
        architecture: Name of the model, as timm/NAME.
        pretrained: Whether to load the ImageNet weights, which are downloaded if needed.

    Raises:
        UserError: timm is not installed, has no such model, or cannot download the weights.
    """
    try:
        import timm
    except ImportError:
        raise UserError(
            f"model.architecture is {architecture}, but timm is not installed; run: pip install 'visionbench[timm]'."
        ) from None
    name = architecture.removeprefix(TIMM)
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:
        similar = timm.list_models(f"*{name}*")[:5]
        raise UserError(
            f"timm has no model {name}; "
            + (f"similar names are {', '.join(similar)}." if similar else "timm.list_models() lists all models.")
        ) from error
    if not pretrained:
        return network
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # timm uses four libraries, each with its own errors
        config = getattr(network, "pretrained_cfg", {})
        raise UserError(
            f"The ImageNet weights of {architecture} cannot be downloaded ({str(error).splitlines()[0]}); set "
            f"--model.weights to the file model.safetensors of {config.get('hf_hub_id') or name}, or to none."
        ) from error
    return network
