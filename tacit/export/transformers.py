"""For `transformers`: a SwinModel or ViTModel folder with its image processor, for `AutoModel.from_pretrained`.

The feature is `pooler_output` in both. A ViTModel has a linear layer there, which is written as the identity.
"""

from __future__ import annotations

from pathlib import Path

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tacit.encoders import Encoder, to_transformers, write_tensors
from tacit.errors import MissingExtra, UsageError


def write(encoder: Encoder, folder: Path) -> None:
    try:
        from transformers import CLIPImageProcessor, SwinConfig, ViTConfig
    except ImportError as error:
        raise MissingExtra("Export to transformers", "transformers", "export") from error
    if trouble := _inexpressible(encoder):
        raise UsageError(f"transformers cannot hold this encoder: {trouble}")
    i, trunk = encoder.inputs, encoder.trunk
    state = to_transformers(trunk)
    if isinstance(trunk, SwinTransformer):
        config = SwinConfig(**_swin_settings(encoder), architectures=["SwinModel"])
    else:
        config = ViTConfig(**_vit_settings(encoder), architectures=["ViTModel"])
        state["pooler.dense.weight"] = torch.eye(encoder.width)
        state["pooler.dense.bias"] = torch.zeros(encoder.width)
    # The names in files stay the same between versions of transformers, those of its modules do not.
    write_tensors(folder / "model.safetensors", state)
    config.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": round(i.size / i.crop)}, crop_size={"height": i.size, "width": i.size},
        resample={"bilinear": 2, "bicubic": 3}[i.interpolation], image_mean=list(i.mean), image_std=list(i.std),
        do_convert_rgb=i.channels == 3,
    ).save_pretrained(folder)  # fmt: skip


def _inexpressible(encoder: Encoder) -> str | None:
    trunk = encoder.trunk
    if encoder.norm_before_mlp != "ln":
        return "it has no BatchNorm before the MLPs. Export it to torch or onnx."
    if isinstance(trunk, SwinTransformer):
        windows = sorted({block.window_size for layer in trunk.layers for block in layer.blocks})
        if len(windows) > 1:
            return (
                f"its Swin has one window for all stages, and here they are {' and '.join(str(w[0]) for w in windows)} "
                "(a window shrinks where the grid is smaller). Export it to timm, torch or onnx."
            )
        return None
    plain = (
        isinstance(trunk, VisionTransformer)
        and trunk.global_pool == "token"
        and trunk.num_prefix_tokens == 1
        and not trunk.dynamic_img_size
        and trunk.pos_embed is not None
        and trunk.pos_embed.shape[1] == trunk.patch_embed.num_patches + 1
        and isinstance(trunk.norm_pre, nn.Identity)
        and isinstance(trunk.fc_norm, nn.Identity)
        and all(type(block).__name__ == "Block" and isinstance(block.ls1, nn.Identity) for block in trunk.blocks)
        and all(isinstance(block.attn.q_norm, nn.Identity) for block in trunk.blocks)
        and isinstance(trunk.blocks[0].mlp.act, nn.GELU)
    )
    others = "Export it to timm, torch or onnx."
    return (
        None if plain else f"{encoder.arch} is neither a Swin (version 1) nor a plain ViT with a class token. {others}"
    )


def _swin_settings(encoder: Encoder) -> dict:
    trunk, block = encoder.trunk, encoder.trunk.layers[0].blocks[0]
    return {
        "image_size": encoder.inputs.size,
        "num_channels": encoder.inputs.channels,
        "patch_size": trunk.patch_embed.patch_size[0],
        "embed_dim": trunk.embed_dim,
        "depths": [len(layer.blocks) for layer in trunk.layers],
        "num_heads": [layer.blocks[0].attn.num_heads for layer in trunk.layers],
        "window_size": block.window_size[0],
        "mlp_ratio": block.mlp.fc1.out_features / block.mlp.fc1.in_features,
        "qkv_bias": block.attn.qkv.bias is not None,
        "layer_norm_eps": trunk.norm.eps,
        "drop_path_rate": 0.0,
    }


def _vit_settings(encoder: Encoder) -> dict:
    trunk, block = encoder.trunk, encoder.trunk.blocks[0]
    return {
        "image_size": encoder.inputs.size,
        "num_channels": encoder.inputs.channels,
        "patch_size": trunk.patch_embed.patch_size[0],
        "hidden_size": trunk.embed_dim,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "qkv_bias": block.attn.qkv.bias is not None,
        "layer_norm_eps": trunk.norm.eps,
        "pooler_act": "linear",
    }


def read(folder: Path):
    from transformers import AutoModel
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model = AutoModel.from_pretrained(folder).eval()
    if shown:
        logging.enable_progress_bar()

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        return model(pixel_values=x).pooler_output

    return features


def usage(encoder: Encoder) -> str:
    i = encoder.inputs
    return f"""import torch
from transformers import AutoImageProcessor, AutoModel
processor, encoder = AutoImageProcessor.from_pretrained("."), AutoModel.from_pretrained(".").eval()
features = encoder(torch.zeros(1, {i.channels}, {i.size}, {i.size})).pooler_output"""
