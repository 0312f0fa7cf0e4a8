"""ASiT as its recipe puts it together, of soundfile, torchaudio's Kaldi filterbank, timm and torch. Run by
benchmarks/jobs.py.

No library of parts has ASiT. Its steps are re-expressed here: whole files are read, filterbanks of two excerpts are
made one by one and blocks of them overwritten in the data set; donors, the student, the slow teacher and the three
losses are of the step. torchaudio's filterbank is plain Python: a torchaudio that is older than the environment's torch
will do once its compiled libraries are taken out of torchaudio/lib.
"""

import random
from pathlib import Path

import soundfile
import timm
import torch
import torch.nn.functional as F
from loop import train  # beside this file
from torch import nn
from torch.utils.data import Dataset
from torchaudio.compliance import kaldi

RATE, SECONDS, FRAMES, BANDS, PATCH = 32_000, 6, 592, 128, 16
MEAN, STD = -4.2677393, 4.5689974


class Recordings(Dataset):
    """Of a file ((clean [1, T, F], corrupted, mask) of each of two excerpts)."""

    def __init__(self, folder: str, transform: None):
        self.files = sorted(Path(folder).glob("*.wav"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        wave, _ = soundfile.read(self.files[index], dtype="float32", always_2d=True)
        wave = torch.from_numpy(wave[:, 0])
        wave = wave - wave.mean()
        if random.random() < 0.5:
            wave = wave.roll(random.randrange(len(wave)))
        return excerpt(wave), excerpt(wave)


def excerpt(wave):
    start = random.randrange(len(wave) - SECONDS * RATE + 1)
    clean = kaldi.fbank(
        wave[None, start : start + SECONDS * RATE], htk_compat=True, sample_frequency=RATE, use_energy=False,
        window_type="hanning", num_mel_bins=BANDS, dither=0.0, frame_shift=10,
    )[:FRAMES]  # fmt: skip
    clean = ((clean - MEAN) / (2 * STD))[None]
    mask = torch.zeros_like(clean)
    wanted = random.uniform(0.5, 0.7) * mask.numel()
    while mask.sum() < wanted:
        block(mask, 1.0)
    return clean, clean * (1 - mask), mask


def block(mask, value):
    """A rectangle of up to three tenths of each side, set to `value`; where it is."""
    top, left = random.randrange(FRAMES), random.randrange(BANDS)
    high, wide = random.randint(1, int(0.3 * FRAMES)), random.randint(1, int(0.3 * BANDS))
    place = (0, slice(top, top + high), slice(left, left + wide))
    mask[place] = value
    return place


def with_donors(clean, corrupted, mask):
    """Every second record is overwritten by blocks of another of the batch instead."""
    for i in range(len(clean)):
        if random.random() < 0.5:
            other = random.choice([j for j in range(len(clean)) if j != i])
            corrupted[i], mask[i] = clean[i], 0
            while mask[i].mean() < 0.3:
                place = block(mask[i], 1.0)
                corrupted[i][place] = clean[other][place]
    return corrupted, mask


class Net(nn.Module):
    def __init__(self, drop_path: float):
        super().__init__()
        self.trunk = timm.create_model(
            "vit_small_patch16_224", img_size=(FRAMES, BANDS), in_chans=1, num_classes=0, drop_path_rate=drop_path
        )
        width = self.trunk.num_features
        self.head = nn.Sequential(
            nn.Linear(width, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        self.of_excerpts, self.of_patches = prototypes(8192), prototypes(1024)

    def forward(self, x):
        tokens = self.trunk.forward_features(x)  # [B, 1 + N, D]
        z = F.normalize(self.head(tokens), dim=-1)
        return self.of_excerpts(z[:, 0]), self.of_patches(z[:, 1:]), tokens[:, 1:]


def prototypes(count: int) -> nn.Module:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(256, count, bias=False))
    layer.parametrizations.weight.original0.data.fill_(1)
    layer.parametrizations.weight.original0.requires_grad_(False)
    return layer


def cross_entropy(teacher, student):
    return -(teacher * F.log_softmax(student.float() / 0.1, dim=-1)).sum(-1).mean()


def asit():
    student, teacher = Net(0.1), Net(0.0)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    decoder = nn.Sequential(nn.Linear(384, 768), nn.GELU(), nn.Linear(768, 768), nn.GELU(), nn.Linear(768, 128))
    paint = nn.ConvTranspose2d(128, 1, PATCH, PATCH)
    centres = [torch.zeros(8192), torch.zeros(1024)]

    def loss(views):
        with torch.no_grad():
            for slow, own in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.mul_(0.996).add_(own, alpha=0.004)
        clean, corrupted, mask = (torch.cat(parts) for parts in zip(*(donated(view) for view in views), strict=True))
        with torch.no_grad():
            seen = [x.float() for x in teacher(clean)[:2]]
        said, said_patches, tokens = student(corrupted)
        wanted, wanted_patches = (((x - c) / 0.04).softmax(-1) for x, c in zip(seen, centres, strict=True))
        for centre, x in zip(centres, seen, strict=True):
            centre.mul_(0.9).add_(x.flatten(0, -2).mean(0), alpha=0.1)
        grid = F.gelu(decoder(tokens)).transpose(1, 2).unflatten(2, (FRAMES // PATCH, BANDS // PATCH))
        restored = ((paint(grid).float() - clean).abs() * mask).sum() / mask.sum()
        a, b = said.chunk(2)
        wanted_a, wanted_b = wanted.chunk(2)
        views_loss = (cross_entropy(wanted_a, b) + cross_entropy(wanted_b, a)) / 2
        return views_loss + cross_entropy(wanted_patches, said_patches) + 2 * restored

    return None, nn.ModuleList([student, teacher, decoder, paint]), loss


def donated(view):
    clean, corrupted, mask = view
    return clean, *with_donors(clean, corrupted, mask)


train({"asit": asit}, Recordings)
