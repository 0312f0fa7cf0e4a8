"""Where embeddings of several modalities meet (Alayrac et al. 2020, arXiv 2006.16228; VATT, arXiv 2104.11178).

Heads take AGG features {modality: [B, width]} of "video", "audio" and "text", those they were built for or fewer, and
give embeddings {(modality, other): [B, D]}: of the modality, in the space where it meets the other. None is normalised.
Engines that distribute a run turn the BatchNorms into synchronised ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from tacit.heads.mlp import mlp

Embeddings = dict[tuple[str, str], Tensor]


class FineAndCoarse(nn.Module):
    """FAC: a fine space of video and audio, and a coarse one of both and text, which is reached *through* the fine.

        z_v,va = BN(W2 relu(BN(W1 v)))    z_a,va = W a + b       of width `fine`
        z_v,vt = BN(W3 relu(z_v,va))      z_t,vt = W t + b       of width `coarse`

    W1 to W3 have no biases. So what text teaches reaches the video through the space it shares with audio.

    Sound meets text the way video does, by W3 of z_a,va, but with a BatchNorm of its own, since its scale is another.
    The official code names the pair and leaves it out; this is ours, trained where the pair has a weight.

    Args:
        widths: of the features of each modality there is.
        audio_text: whether sound and text meet.
    """

    def __init__(self, widths: Mapping[str, int], fine: int = 512, coarse: int = 256, audio_text: bool = False):
        super().__init__()
        of_video, of_text = "video" in widths, "text" in widths
        audio_text = audio_text and of_text and "audio" in widths
        self.video = mlp(widths["video"], fine, fine, 2, bias=False, last_norm="bn") if of_video else None
        self.audio = nn.Linear(widths["audio"], fine) if "audio" in widths else None
        self.text = nn.Linear(widths["text"], coarse) if of_text else None
        self.coarse = nn.Linear(fine, coarse, bias=False) if of_text and (of_video or audio_text) else None
        self.video_norm = nn.BatchNorm1d(coarse) if of_video and of_text else None
        self.audio_norm = nn.BatchNorm1d(coarse) if audio_text else None

    def forward(self, features: Mapping[str, Tensor]) -> Embeddings:
        found: Embeddings = {}
        for of, other, norm in (("video", "audio", self.video_norm), ("audio", "video", self.audio_norm)):
            if of in features:
                z = getattr(self, of)(features[of])
                found[of, other] = z
                if norm is not None:
                    found[of, "text"] = norm(self.coarse(z.relu()))
        if "text" in features:
            z = self.text(features["text"])
            found |= {("text", "video"): z, ("text", "audio"): z}
        return found


class Joint(nn.Module):
    """One space of all: BN(W relu(x)) of every modality, W without bias (the official code, as a baseline)."""

    def __init__(self, widths: Mapping[str, int], width: int = 512):
        super().__init__()
        self.of = nn.ModuleDict(
            {
                of: nn.Sequential(nn.ReLU(), nn.Linear(n, width, bias=False), nn.BatchNorm1d(width))
                for of, n in widths.items()
            }
        )

    def forward(self, features: Mapping[str, Tensor]) -> Embeddings:
        found = {of: self.of[of](x) for of, x in features.items()}
        return {(of, other): z for of, z in found.items() for other in ("video", "audio", "text") if other != of}


HEADS = ("fac", "joint")


def common_space(
    kind: str, widths: Mapping[str, int], fine: int, coarse: int, audio_text: bool
) -> FineAndCoarse | Joint:
    """The head by its name, one of `HEADS`; a joint space is as wide as the fine one."""
    return FineAndCoarse(widths, fine, coarse, audio_text) if kind == "fac" else Joint(widths, fine)
