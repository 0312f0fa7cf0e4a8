import argparse
import pickle
import re
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from tacit import encoders
from tacit.errors import DataError

SWIN = {"size": 16, "patch": 2, "window": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
VIT = {"size": 16, "patch": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}


def swin(**changes) -> encoders.Encoder:
    return encoders.build("swin_mini", **SWIN | changes).eval()


def vit(**changes) -> encoders.Encoder:
    return encoders.build("vit_mini", **VIT | changes).eval()


def image(encoder) -> torch.Tensor:
    i = encoder.inputs
    return torch.randn(2, i.channels, i.size, i.size, generator=torch.Generator().manual_seed(0))


def official_swin(encoder) -> dict[str, torch.Tensor]:
    """The encoder's weights under the names of the official Swin code, with the buffers that it stores."""
    state = {}
    for name, value in encoder.trunk.state_dict().items():
        name = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
        state[name] = value.clone()
        if name.endswith("relative_position_bias_table"):
            area = ((len(value) ** 0.5 + 1) / 2) ** 2
            state[name.replace("bias_table", "index")] = torch.zeros(int(area), int(area), dtype=torch.long)
        if name.endswith("blocks.1.norm1.weight"):
            state[name.replace("norm1.weight", "attn_mask")] = torch.zeros(4, 16, 16)
    return state


def moby(encoder, online: dict[str, torch.Tensor]) -> dict:
    """A checkpoint as the official MoBY code lays it out: both branches, heads, queues, and its settings."""
    width = encoder.width
    heads = {"0.weight": torch.zeros(8, width), "0.bias": torch.zeros(8), "1.running_mean": torch.zeros(8)}
    model = {f"encoder.{k}": v for k, v in online.items()}
    model |= {f"encoder_k.{k}": torch.full_like(v, 7) for k, v in online.items()}
    for head in ("projector", "projector_k", "predictor"):
        model |= {f"{head}.linear_hidden.{k}": v for k, v in heads.items()}
    model |= {"queue1": torch.zeros(8, 16), "queue2": torch.zeros(8, 16), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"model": model, "optimizer": {"state": {}}, "epoch": 299, "max_accuracy": 0.0}


def test_official_swin_t_names_and_shapes_cover_ours():
    """The names and shapes of the 173 tensors of an official Swin-T, written down from its architecture."""
    official = {"patch_embed.proj.weight": (96, 3, 4, 4), "patch_embed.proj.bias": (96,)}
    official |= {"patch_embed.norm.weight": (96,), "patch_embed.norm.bias": (96,)}
    for i, (depth, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24), strict=True)):
        d = 96 * 2**i
        for j in range(depth):
            block = {"norm1.weight": (d,), "norm1.bias": (d,), "norm2.weight": (d,), "norm2.bias": (d,)}
            block |= {"attn.relative_position_bias_table": (169, heads), "attn.relative_position_index": (49, 49)}
            block |= {"attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,), "attn.proj.weight": (d, d)}
            block |= {"attn.proj.bias": (d,), "mlp.fc1.weight": (4 * d, d), "mlp.fc1.bias": (4 * d,)}
            block |= {"mlp.fc2.weight": (d, 4 * d), "mlp.fc2.bias": (d,)}
            if j % 2 and i < 3:
                windows = (56 // 2**i // 7) ** 2
                block["attn_mask"] = (windows, 49, 49)
            official |= {f"layers.{i}.blocks.{j}.{k}": v for k, v in block.items()}
        if i < 3:
            merge = {"reduction.weight": (2 * d, 4 * d), "norm.weight": (4 * d,), "norm.bias": (4 * d,)}
            official |= {f"layers.{i}.downsample.{k}": v for k, v in merge.items()}
    official |= {"norm.weight": (768,), "norm.bias": (768,)}

    from tacit.encoders.initialise import _timm_names

    with torch.device("meta"):
        trunk = encoders.build("swin_tiny", size=224).trunk
        theirs = {f"encoder.{k}": torch.empty(shape) for k, shape in official.items()}
        theirs |= {f"encoder_k.{k}": torch.empty(shape) for k, shape in official.items()}
        found = _timm_names(theirs, trunk)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in trunk.state_dict().items()}


@pytest.mark.parametrize("make", [swin, vit])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_official_moby_checkpoint_gives_its_online_encoder(make, wrapped, tmp_path):
    source, target = make(), make()
    online = official_swin(source) if make is swin else source.trunk.state_dict()
    checkpoint = moby(source, online)
    if wrapped:
        checkpoint["model"] = {f"module.{k}": v for k, v in checkpoint["model"].items()}
    torch.save(checkpoint, tmp_path / "moby.pth")
    report = encoders.initialise(target, tmp_path / "moby.pth")
    assert torch.equal(target(image(target)), source(image(source)))
    assert len(report.loaded) == len(target.trunk.state_dict())
    assert not report.missing + report.unexpected + report.interpolated + report.notes
    assert str(report) == f"{len(report.loaded)} tensors loaded"


def test_the_settings_inside_official_checkpoints_are_read_without_running_anything(tmp_path, monkeypatch):
    """yacs' CfgNode is a dict with attributes; yacs need not be installed to read the file."""
    yacs = types.ModuleType("yacs.config")
    node = type("CfgNode", (dict,), {"__module__": "yacs.config", "__qualname__": "CfgNode"})
    yacs.CfgNode = node
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", yacs)
    config = node(MODEL=node(TYPE="moby", DEPTHS=[2, 2]), AMP="O1")
    config.__dict__["__immutable__"] = True
    source, target = swin(), swin()
    checkpoint = moby(source, official_swin(source)) | {"config": config, "args": argparse.Namespace(lr=0.1)}
    torch.save(checkpoint, tmp_path / "moby.pth")
    monkeypatch.delitem(sys.modules, "yacs.config")
    encoders.initialise(target, tmp_path / "moby.pth")
    assert torch.equal(target(image(target)), source(image(source)))


class Danger:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"model": {}, "extra": Danger()}, tmp_path / "bad.pth")
    with pytest.raises(DataError, match="cannot be read safely"):
        encoders.initialise(vit(), tmp_path / "bad.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Danger(), protocol=2))
    with pytest.raises(DataError, match="cannot be read safely"):
        encoders.initialise(vit(), tmp_path / "plain.pkl")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("make", [swin, vit])
def test_run_folders_encoder_folders_safetensors_and_timm_checkpoints(make, tmp_path):
    source = make()
    encoders.save(source, tmp_path / "run" / "encoder")
    torch.save(source.trunk.state_dict() | {"head.weight": torch.zeros(10, source.width)}, tmp_path / "timm.pth")
    torch.save({"state_dict": {f"method.{k}": v for k, v in prefixed(source).items()}}, tmp_path / "last.ckpt")
    save_file({f"backbone.{k}": v for k, v in source.trunk.state_dict().items()}, tmp_path / "backbone.safetensors")
    for place in (
        "run",
        "run/encoder",
        "run/encoder/model.safetensors",
        "timm.pth",
        "last.ckpt",
        "backbone.safetensors",
    ):
        target = make()
        report = encoders.initialise(target, tmp_path / place)
        assert torch.equal(target(image(target)), source(image(source))), place
        assert not report.unexpected, place


def prefixed(encoder) -> dict[str, torch.Tensor]:
    return {f"encoder.{k}": v for k, v in encoder.state_dict().items()}


@pytest.mark.parametrize("make", [swin, vit])
def test_a_larger_input_interpolates_what_depends_on_it(make, tmp_path):
    encoders.save(make(), tmp_path)
    target = make(size=32, window=8) if make is swin else make(size=32)
    report = encoders.initialise(target, tmp_path)
    expected = "relative_position_bias_table" if make is swin else "pos_embed"
    assert report.interpolated
    assert all(expected in name for name in report.interpolated)
    assert not report.missing
    assert "interpolated" in str(report)


def test_a_table_of_another_window_keeps_its_middle_and_its_heads():
    from tacit.encoders.initialise import _square_table

    table = torch.randn(13 * 13, 3)
    wider = _square_table(table, torch.empty(25 * 25, 3)).view(25, 25, 3)
    torch.testing.assert_close(wider[12, 12], table.view(13, 13, 3)[6, 6])  # offset 0 stays offset 0
    torch.testing.assert_close(_square_table(table, table), table)
    slope = torch.arange(13.0).repeat_interleave(13)[:, None]  # rises down the rows: rows stay rows
    wider = _square_table(slope, torch.empty(25 * 25, 1)).view(25, 25)
    torch.testing.assert_close(wider, wider[:, :1].expand(25, 25), atol=1e-5, rtol=0)
    assert (wider[1:, 0] > wider[:-1, 0]).all()


def test_the_class_token_keeps_its_position_embedding(tmp_path):
    source, target = vit(), vit(size=32)
    encoders.save(source, tmp_path)
    encoders.initialise(target, tmp_path)
    assert torch.equal(target.trunk.pos_embed[:, 0], source.trunk.pos_embed[:, 0])
    assert target.trunk.pos_embed.shape == (1, 65, 32)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (3, 4), (1, 3), (4, 3)])
def test_channels_are_adapted_so_that_repeated_inputs_give_the_same(before, after, tmp_path):
    source, target = vit(channels=before), vit(channels=after)
    encoders.save(source, tmp_path)
    report = encoders.initialise(target, tmp_path)
    assert report.notes[0].startswith(f"input channels {before} -> {after}")
    assert "patch_embed.proj.weight" in report.interpolated
    if 1 in (before, after):
        grey = torch.randn(2, 1, 16, 16)
        torch.testing.assert_close(
            target(grey.expand(-1, after, -1, -1)), source(grey.expand(-1, before, -1, -1)), atol=1e-5, rtol=1e-4
        )


def test_batch_norm_before_the_mlp_stays_fresh_when_the_file_has_layer_norm(tmp_path):
    encoders.save(swin(), tmp_path)
    report = encoders.initialise(swin(norm_before_mlp="bn"), tmp_path)
    assert report.missing
    assert all(".norm2.bn." in name for name in report.missing)
    assert all(".norm2." in name for name in report.unexpected)


def test_files_that_do_not_fit_are_named(tmp_path):
    encoders.save(vit(), tmp_path / "vit")
    before = {k: v.clone() for k, v in swin().state_dict().items()}
    target = swin()
    target.load_state_dict(before)
    with pytest.raises(DataError, match=r"does not fit swin_mini: .* tensors agree"):
        encoders.initialise(target, tmp_path / "vit")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    with pytest.raises(DataError, match=r"is \[.*\] there and \[.*\] here"):
        encoders.initialise(vit(embed_dim=64), tmp_path / "vit")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "page.pth").write_text("<html>404</html>")
    (tmp_path / "short.safetensors").write_bytes(b"\x10\x00")
    for name in ("empty.pth", "page.pth", "short.safetensors"):
        with pytest.raises(DataError, match="cannot be read safely"):
            encoders.initialise(vit(), tmp_path / name)
    for name in ("nothing.pth", "vit/nothing"):
        with pytest.raises(DataError, match="does not exist"):
            encoders.initialise(vit(), tmp_path / name)
    torch.save({"epoch": 3, "list": [1, 2]}, tmp_path / "no_weights.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("no_weights.pth", "list.pth"):
        with pytest.raises(DataError, match="does not fit"):
            encoders.initialise(vit(), tmp_path / name)


def dino(trunk: dict[str, torch.Tensor]) -> dict:
    """As the official DINO code keeps a run: the student inside two wrappers, the teacher inside one."""
    head = {"mlp.0.weight": torch.zeros(8, 8), "last_layer.weight_g": torch.ones(16, 1)}
    student = {f"module.backbone.{k}": torch.full_like(v, 7) for k, v in trunk.items()}
    teacher = {f"backbone.{k}": v for k, v in trunk.items()} | {f"head.{k}": v for k, v in head.items()}
    loss = {"center": torch.zeros(1, 16)}
    return {"student": student, "teacher": teacher, "optimizer": {"state": {}}, "epoch": 100, "dino_loss": loss,
            "args": argparse.Namespace(arch="vit_small", patch_size=16)}  # fmt: skip


def moco_v3(trunk: dict[str, torch.Tensor]) -> dict:
    """Both branches, each a whole ViT whose classifier became the projector."""
    head = {"head.0.weight": torch.zeros(8, 8), "head.1.running_mean": torch.zeros(8)}
    base = {f"module.base_encoder.{k}": v for k, v in {**trunk, **head}.items()}
    momentum = {f"module.momentum_encoder.{k}": torch.full_like(v, 7) for k, v in trunk.items()}
    predictor = {"module.predictor.0.weight": torch.zeros(8, 8)}
    return {"epoch": 300, "arch": "vit_small", "state_dict": base | momentum | predictor}


def moco_v2(trunk: dict[str, torch.Tensor]) -> dict:
    query = {f"module.encoder_q.{k}": v for k, v in trunk.items()} | {"module.encoder_q.fc.0.weight": torch.zeros(8, 8)}
    key = {f"module.encoder_k.{k}": torch.full_like(v, 7) for k, v in trunk.items()}
    queue = {"module.queue": torch.zeros(8, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": query | key | queue}


def swav(trunk: dict[str, torch.Tensor]) -> dict:
    head = {"projection_head.0.weight": torch.zeros(8, 8), "prototypes.weight": torch.zeros(30, 8)}
    return {f"module.{k}": v for k, v in {**trunk, **head}.items()}


def esvit(trunk: dict[str, torch.Tensor]) -> dict:
    """The heads are parts of the backbone, and the teacher of a Swin is in no wrapper."""
    head = {"head.mlp.0.weight": torch.zeros(8, 8), "head_dense.mlp.0.weight": torch.zeros(8, 8)}
    student = {f"module.{k}": torch.full_like(v, 7) for k, v in trunk.items()}
    return {"student": student, "teacher": {**trunk, **head}, "epoch": 300}


def plain(encoder) -> dict[str, torch.Tensor]:
    return encoder.trunk.state_dict()


def resnet(**_) -> encoders.Encoder:
    return encoders.build("resnet10t", size=32).eval()


@pytest.mark.parametrize(
    ("make", "names", "layout"),
    [(vit, plain, dino), (swin, official_swin, dino), (vit, plain, moco_v3), (resnet, plain, moco_v2),
     (resnet, plain, swav), (swin, official_swin, esvit)],
    ids=["dino-vit", "dino-swin", "moco_v3", "moco_v2", "swav", "esvit"],
)  # fmt: skip
def test_official_checkpoints_give_the_encoder_the_paper_uses(make, names, layout, tmp_path):
    source, fresh = make(), make()
    torch.save(layout(names(source)), tmp_path / "official.pth")
    done = encoders.initialise(fresh, tmp_path / "official.pth")
    assert not done.missing
    x = image(source)
    torch.testing.assert_close(fresh(x), source(x))


def test_official_vit_names_and_shapes_cover_ours():
    """The 150 tensors of DINO's and MoCo v3's ViT-S/16, written down from its architecture."""
    d = 384
    official = {"cls_token": (1, 1, d), "pos_embed": (1, 197, d), "patch_embed.proj.weight": (d, 3, 16, 16)}
    official |= {"patch_embed.proj.bias": (d,), "norm.weight": (d,), "norm.bias": (d,)}
    for i in range(12):
        block = {f"norm{n}.{part}": (d,) for n in (1, 2) for part in ("weight", "bias")}
        block |= {"attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,), "attn.proj.weight": (d, d)}
        block |= {"attn.proj.bias": (d,), "mlp.fc1.weight": (4 * d, d), "mlp.fc1.bias": (4 * d,)}
        block |= {"mlp.fc2.weight": (d, 4 * d), "mlp.fc2.bias": (d,)}
        official |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    assert len(official) == 150
    ours = encoders.build("deit_small", size=224).trunk.state_dict()
    assert {name: tuple(value.shape) for name, value in ours.items()} == official
