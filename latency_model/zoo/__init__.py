"""Models by name: our small networks, torchvision, timm, a caller's own function, or an ONNX file."""

from latency_model.zoo.load import LoadedModel, load_model
from latency_model.zoo.weights import load_weights

__all__ = ["LoadedModel", "load_model", "load_weights"]
