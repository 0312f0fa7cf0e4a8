"""Tokenisers: k-means that finds what there is, DALL-E's network and its released form, and what a run keeps."""

import json
import sys
import types

import pytest
import torch
from torch import nn

from tacit import encoders
from tacit.encoders.dalle import read_released
from tacit.encoders.kmeans import kmeans
from tacit.encoders.tokenizers import DVAE, PatchCodes, build_tokenizer, dvae_inputs, dvae_parts, tokenizer_problems
from tacit.errors import BadSettings, DataError
from tacit.views import input_spec


def wave(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).sin().float().view(*shape)


def dvae(vocabulary: int = 16, channels: int = 3, size: int = 16) -> DVAE:
    torch.manual_seed(0)
    trunk = encoders.build("dvae_mini", size=size, channels=channels, hidden=8).trunk
    return DVAE(trunk, *dvae_parts(trunk, vocabulary), dvae_inputs(size, channels)).eval()


def test_kmeans_finds_the_centres_there_are():
    torch.manual_seed(0)
    wanted = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    x = (wanted.repeat(50, 1) + 0.1 * torch.randn(200, 2))[torch.randperm(200)]
    distances = [torch.cdist(wanted, kmeans(x, count)).min(1).values.max() for count in (4, 8)]
    assert distances[1] < 0.2  # with twice as many, none is missed
    assert torch.cdist(kmeans(x, 1), x.mean(0, keepdim=True)) < 1e-4


def test_kmeans_gives_an_empty_centre_the_farthest_row(monkeypatch):
    x = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n))  # the first two rows
    assert kmeans(x, 2).flatten().sort().values.tolist() == pytest.approx([0.1, 9.0], abs=1e-6)


def test_codes_of_patches_are_the_nearest_centres_and_lead_back():
    tokenizer = PatchCodes(input_spec(8, 3), 4, 5)
    assert not list(tokenizer.parameters())
    codes = torch.tensor([[[3, 1], [0, 4]], [[2, 2], [1, 0]]])
    tokenizer.centres.copy_(0.2 * wave(5, 48))
    x = tokenizer.inputs.prepare(tokenizer.decode(codes))
    assert x.shape == (2, 3, 8, 8)
    assert torch.equal(tokenizer(x), codes)
    torch.testing.assert_close(tokenizer.patches(x)[0, 0, 0], tokenizer.centres[3])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer(x), codes)


def test_kmeans_needs_as_many_different_patches_as_codes():
    tokenizer = PatchCodes(input_spec(8, 3), 4, 64)
    flat = torch.ones(32, 3, 8, 8) * torch.arange(32).view(-1, 1, 1, 1)
    with pytest.raises(BadSettings, match=r"vocabulary = 64: k-means found 32 different patches.*vocabulary=2"):
        tokenizer.look(iter([flat]))
    asked = []
    tokenizer.look(asked.append(i) or torch.randn(128, 3, 8, 8) for i in range(10))
    assert asked == [0, 1]  # 16 patches a code and no more
    assert tokenizer.centres.norm(dim=1).median() < 4  # means of patches, where those are of about 7


def test_the_encoder_has_the_published_size():
    with torch.device("meta"):
        trunk = encoders.build("dall_e_dvae", size=112).trunk
        codes, decoder = dvae_parts(trunk, 8192)
    names = {n: tuple(p.shape) for n, p in trunk.named_parameters()}
    assert names["blocks.input.weight"] == (256, 3, 7, 7)
    assert names["blocks.group_4.block_2.res_path.conv_4.weight"] == (2048, 512, 1, 1)
    assert names["blocks.group_2.block_1.id_path.weight"] == (512, 256, 1, 1)
    assert trunk.blocks.group_1.block_1.gain == 1 / 64
    assert sum(p.numel() for part in (trunk, codes) for p in part.parameters()) == 53_786_240
    assert sum(p.numel() for p in decoder.parameters()) == 43_829_766
    assert encoders.step(encoders.build("dvae_mini", size=16)) == 4


def test_a_block_adds_little_to_what_it_is_given():
    block = dvae().trunk.blocks.group_1.block_1
    x = torch.randn(2, 8, 4, 4)
    nn.init.zeros_(block.res_path.conv_4.weight)
    nn.init.constant_(block.res_path.conv_4.bias, 1.0)
    torch.testing.assert_close(block(x), x + 1 / 9)  # three groups of one block


def test_pixels_that_a_code_stands_for_lead_back_to_what_was_prepared():
    tokenizer = dvae()
    codes = torch.randint(16, (2, 4, 4))
    found = tokenizer.decode(codes)
    assert found.shape == (2, 3, 16, 16)
    picked = nn.functional.one_hot(codes, 16).permute(0, 3, 1, 2).float()
    expected = torch.sigmoid(tokenizer.decoder(picked)[:, :3])
    torch.testing.assert_close(tokenizer.inputs.prepare(found), expected.clamp(0.1, 0.9))
    assert tokenizer.inputs.prepare(torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1, 1)).flatten().tolist() == pytest.approx(
        [0.1, 0.9, 0.5]
    )


def test_what_a_run_keeps_is_read_again(tmp_path):
    made = dvae()
    encoders.save_tokenizer(made, tmp_path / "tokenizer")
    for what in (tmp_path, tmp_path / "tokenizer"):
        read = build_tokenizer(str(what), size=32, grid=8, channels=3, vocabulary=99)
        assert (read.stride, read.outputs, read.inputs.size, read.inputs.interpolation) == (4, 16, 32, "lanczos")
        x = made.inputs.prepare(torch.rand(2, 3, 32, 32))
        assert torch.equal(read.eval()(x), made(x))
        assert torch.equal(read.decode(read(x)), made.decode(made(x)))


def test_what_does_not_fit_is_said_with_what_would(tmp_path):
    encoders.save_tokenizer(dvae(), tmp_path / "tokenizer")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("x")
    run = str(tmp_path)

    def said(what, size=32, grid=8, channels=3):
        return " ".join(tokenizer_problems(what, size=size, grid=grid, channels=channels))

    assert said(run) == said("kmeans") == said("kmeans", 24) == ""
    assert "each of the 8 patches to a side gets a code, and 30 = 3 x 8 + 6. Set token_size=24 or 32" in said(
        "kmeans", 30
    )
    assert "Set token_size=8." in said("kmeans", 4)
    assert "the codes of" in said(run, 64)
    assert "4 x 4 pixels, 16 to a side, and there are 8 patches to a side. Set token_size=32." in said(run, 64)
    assert "channels = 1" in said(run, channels=1)
    assert "does not exist" in said("/nowhere")
    assert "tacit pretrain dvae" in said(str(tmp_path / "empty"))
    assert ".safetensors" in said(str(tmp_path / "x.txt"))
    with pytest.raises(BadSettings, match="does not exist"):
        build_tokenizer("/nowhere", size=32, grid=8, channels=3, vocabulary=8)


def test_a_damaged_tokeniser_is_told_from_none(tmp_path):
    encoders.save_tokenizer(dvae(), tmp_path)
    about = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**about, "vocabulary": 99}))
    with pytest.raises(DataError, match="no whole tokeniser"):
        build_tokenizer(str(tmp_path), size=32, grid=8, channels=3, vocabulary=8)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        tokenizer_problems(str(tmp_path), size=32, grid=8)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**about, "format": 2}))
    with pytest.raises(DataError, match="later version"):
        tokenizer_problems(str(tmp_path), size=32, grid=8)


def released(tokenizer: DVAE) -> dict[str, torch.Tensor]:
    """The same weights under the released names."""
    state = {}
    for name, value in tokenizer.state_dict().items():
        if not name.startswith("decoder."):
            name = name.removeprefix("trunk.").replace("codes.", "blocks.output.conv.")
            state[name.replace(".weight", ".w").replace(".bias", ".b")] = value.clone()
    return state


def test_released_weights_find_their_places(tmp_path):
    made = dvae()
    torch.save(released(made), tmp_path / "encoder.pt")
    read = build_tokenizer(str(tmp_path / "encoder.pt"), size=16, grid=4, channels=3, vocabulary=99).eval()
    x = made.inputs.prepare(torch.rand(2, 3, 16, 16))
    assert (read.outputs, read.stride, read.decodes) == (16, 4, False)
    assert torch.equal(read(x), made(x))
    with pytest.raises(BadSettings, match=r"token_size = 16.*token_size=8"):
        build_tokenizer(str(tmp_path / "encoder.pt"), size=16, grid=2, channels=3, vocabulary=99)


@pytest.fixture
def dall_e(monkeypatch):
    """A model made of classes with the names that the released file, a pickled model, asks for."""
    made = {name: types.ModuleType(name) for name in ("dall_e", "dall_e.encoder", "dall_e.utils")}
    for module, name in (("encoder", "Encoder"), ("encoder", "EncoderBlock"), ("utils", "Conv2d")):
        cls = type(name, (nn.Module,), {"__module__": f"dall_e.{module}"})
        setattr(made[f"dall_e.{module}"], name, cls)
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def pickled(tensors: dict[str, torch.Tensor], classes) -> nn.Module:
    """Modules in one another as the names say; what holds w and b is a Conv2d, the outermost an Encoder."""
    root = classes["dall_e.encoder"].Encoder()
    root.device = torch.device("cpu")
    for name, value in tensors.items():
        *path, last = name.split(".")
        at = root
        for i, part in enumerate(path):
            if part not in at._modules:
                inner = classes["dall_e.utils"].Conv2d() if i == len(path) - 1 else nn.Sequential()
                at.add_module(part, inner)
            at = at._modules[part]
        at.register_parameter(last, nn.Parameter(value))
    root.blocks.add_module("relu", nn.ReLU())
    return root


def test_the_released_file_is_read_without_its_classes(dall_e, monkeypatch, tmp_path):
    """The classes of openai/DALL-E themselves, saved whole, were read alike: equal logits, bit for bit."""
    made = dvae()
    torch.save(pickled(released(made), dall_e), tmp_path / "encoder.pkl")
    for name in dall_e:
        monkeypatch.delitem(sys.modules, name)
    about, state = read_released(tmp_path / "encoder.pkl")
    assert about == {"in_chans": 3, "hidden": 8, "blocks": 1, "stride": 4, "vocabulary": 16}
    assert state.keys() == {n for n in made.state_dict() if not n.startswith("decoder.")}
    read = build_tokenizer(str(tmp_path / "encoder.pkl"), size=16, grid=4, channels=3, vocabulary=99).eval()
    x = made.inputs.prepare(torch.rand(2, 3, 16, 16))
    assert torch.equal(read(x), made(x))


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def test_a_file_that_wants_something_run_is_refused(tmp_path):
    torch.save({"blocks.input.w": Trap()}, tmp_path / "encoder.pkl")
    with pytest.raises(DataError, match="cannot be read safely"):
        read_released(tmp_path / "encoder.pkl")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"does not hold DALL-E's encoder.*weight"):
        read_released(tmp_path / "other.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(DataError, match="cannot be read safely"):
        read_released(tmp_path / "cut.safetensors")
