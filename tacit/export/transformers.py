"""For `transformers`: a SwinModel or ViTModel folder with its image processor, for `AutoModel.from_pretrained`."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tacit.encoders import Encoder
from tacit.errors import MissingExtra, UsageError

BLOCK = {
    "attn.proj": "attention.o_proj",
    "attn.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def write(encoder: Encoder, folder: Path) -> None:
    try:
        from transformers import CLIPImageProcessor, SwinConfig, SwinModel, ViTConfig, ViTModel
    except ImportError as error:
        raise MissingExtra("export to transformers", "transformers", "export") from error
    trunk, i = encoder.trunk, encoder.inputs
    if trouble := _inexpressible(encoder):
        raise UsageError(f"transformers cannot hold this encoder: {trouble}. Export it to timm, torch or onnx.")
    if isinstance(trunk, SwinTransformer):
        first = trunk.layers[0].blocks[0]
        model = SwinModel(
            SwinConfig(
                image_size=i.size, num_channels=i.channels, patch_size=trunk.patch_embed.patch_size[0],
                embed_dim=trunk.embed_dim, depths=[len(layer.blocks) for layer in trunk.layers],
                num_heads=[layer.blocks[0].attn.num_heads for layer in trunk.layers], window_size=first.window_size[0],
                mlp_ratio=first.mlp.fc1.out_features / first.mlp.fc1.in_features, drop_path_rate=0.0,
            )
        )  # fmt: skip
        state = _swin_state(trunk)
    else:
        first = trunk.blocks[0]
        model = ViTModel(
            ViTConfig(
                image_size=i.size, num_channels=i.channels, patch_size=trunk.patch_embed.patch_size[0],
                hidden_size=trunk.embed_dim, num_hidden_layers=len(trunk.blocks), layer_norm_eps=trunk.norm.eps,
                num_attention_heads=first.attn.num_heads, intermediate_size=first.mlp.fc1.out_features,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        state = _vit_state(trunk)
    model.load_state_dict(state)
    model.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": round(i.size / i.crop)}, crop_size={"height": i.size, "width": i.size},
        resample={"bilinear": 2, "bicubic": 3}[i.interpolation], image_mean=list(i.mean), image_std=list(i.std),
        do_convert_rgb=i.channels == 3,
    ).save_pretrained(folder)  # fmt: skip


def _inexpressible(encoder: Encoder) -> str | None:
    trunk = encoder.trunk
    if encoder.norm_before_mlp != "ln":
        return "it has no BatchNorm before the MLPs"
    if isinstance(trunk, SwinTransformer):
        windows = {block.window_size for layer in trunk.layers for block in layer.blocks}
        return (
            None
            if len(windows) == 1
            else "its Swin has one window size for all stages, and here the last ones are smaller"
        )
    plain = (
        isinstance(trunk, VisionTransformer)
        and trunk.global_pool == "token"
        and trunk.num_prefix_tokens == 1
        and isinstance(trunk.norm_pre, nn.Identity)
        and isinstance(trunk.blocks[0].ls1, nn.Identity)
        and isinstance(trunk.blocks[0].attn.q_norm, nn.Identity)
    )
    return None if plain else f"{encoder.arch} is neither a Swin (version 1) nor a plain ViT with a class token"


def _swin_state(trunk: SwinTransformer) -> dict[str, Tensor]:
    state = {}
    for name, value in trunk.state_dict().items():
        if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)\.?$", name):
            stage, block, rest = match.groups()
            _put(state, f"encoder.layers.{stage}.blocks.{block}", rest, value)
        elif match := re.match(r"layers\.(\d+)\.downsample\.(.+)$", name):  # timm merges at the start of the next stage
            state[f"encoder.layers.{int(match[1]) - 1}.downsample.{match[2]}"] = value
        else:
            state[_ends(name)] = value
    return state


def _vit_state(trunk: VisionTransformer) -> dict[str, Tensor]:
    state = {}
    for name, value in trunk.state_dict().items():
        if match := re.match(r"blocks\.(\d+)\.(.+)$", name):
            _put(state, f"layers.{match[1]}", match[2], value)
        else:
            state[_ends(name)] = value
    return state


def _put(state: dict[str, Tensor], block: str, name: str, value: Tensor) -> None:
    """One tensor of a block under its new name; the joint query, key and value come apart."""
    if name.startswith("attn.qkv."):
        for which, part in zip("qkv", value.chunk(3), strict=True):
            state[f"{block}.attention.{which}_proj.{name.removeprefix('attn.qkv.')}"] = part.clone()
        return
    old = next(key for key in BLOCK if name.startswith(key))
    state[f"{block}.{BLOCK[old]}{name.removeprefix(old)}"] = value


def _ends(name: str) -> str:
    """Names before the first and after the last block."""
    for old, new in (
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("patch_embed.norm", "embeddings.norm"),
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("norm", "layernorm"),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise UsageError(f"transformers has no place for the tensor {name}; export this encoder to timm, torch or onnx.")


def read(folder: Path):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    pooled = model.config.model_type == "swin"

    def features(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = model(pixel_values=x)
        return y.pooler_output if pooled else y.last_hidden_state[:, 0]

    return features


def usage(encoder: Encoder) -> str:
    feature = "pooler_output" if isinstance(encoder.trunk, SwinTransformer) else "last_hidden_state[:, 0]"
    return f"""import torch
from transformers import AutoImageProcessor, AutoModel
model, processor = AutoModel.from_pretrained("."), AutoImageProcessor.from_pretrained(".")
features = model.eval()(torch.zeros(1, {encoder.inputs.channels}, {encoder.inputs.size}, {encoder.inputs.size})).{feature}"""
