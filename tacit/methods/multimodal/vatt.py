"""VATT: Transformers for Multimodal Self-Supervised Learning from Raw Video, Audio and Text (Akbari et al. 2021,
arXiv 2104.11178).

Transformers without convolutions read boxes of pixels, pieces of the waveform and words. Film and sound of the same
moment meet in a fine space; film and a bag of the sentences around it, one of which may be about it, in a coarse one
that is reached through the fine (FAC, MIL-NCE). Half of the tokens of film and sound are dropped in training. With
`agnostic` one stack of blocks serves all three. A record may lack a modality.

The paper and its code differ: the code warms up for 5,000 steps and takes half a cosine (`paper`), the paper 10,000 and
a quarter (`--set warmup_epochs=10 --set lr_cosine=quarter`); the code crops as VGG did, the paper as Inception
(`--set crop=inception`). In the code AudioSet's films span 2.56 s and their sounds 3.2; here both span the clip.
Sentences without a known word stay candidates in the code; here they do not, unless `empty_sentences`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from tacit import encoders
from tacit.engine import ClipRecipe, Method, Progress, Step
from tacit.engine.clips import clip_encoders, clip_problems, encode_there
from tacit.engine.monitors import about_mean
from tacit.heads import HEADS, common_space
from tacit.objectives import NCE_FORMS, cross_modal_nce, recall_at_1
from tacit.settings import again, setting
from tacit.views import FilmClip, SentenceBag, View, WaveClip
from tacit.views.film import COLOURS, WAYS


@dataclass(frozen=True)
class Settings(ClipRecipe):
    # The code's recipe: 500,000 steps counted in epochs of a thousand.
    epochs: int = again(ClipRecipe, "epochs", 500)
    epoch_steps: int | None = again(ClipRecipe, "epoch_steps", 1000)
    warmup_epochs: float = again(ClipRecipe, "warmup_epochs", 5.0)
    batch_size: int = again(ClipRecipe, "batch_size", 2048)
    lr: float = again(ClipRecipe, "lr", 1e-4)
    lr_batch: int = again(ClipRecipe, "lr_batch", 2048)
    lr_warmup: float = again(ClipRecipe, "lr_warmup", 0.0)
    lr_end: float = again(ClipRecipe, "lr_end", 5e-5)
    eps: float = again(ClipRecipe, "eps", 1e-7)
    weight_decay: float = again(ClipRecipe, "weight_decay", 0.0)

    drop_token: float = setting(0.5, "share of the tokens of film and sound that is KEPT in training", low=0.01, high=1)
    drop_each: bool = setting(False, "draw which for every record; the code draws once for the whole batch")
    head: str = setting("fac", "fac: a fine and a coarse space; joint: one of all", choices=HEADS)
    fine: int = setting(512, "width of the space of video and audio, and of a joint one", low=1)
    coarse: int = setting(256, "width of the space of video and text", low=1)
    objective: str = setting("asymmetric", "one softmax of both directions, or one for each", choices=NCE_FORMS)
    temperature: float = setting(0.07, "divides every similarity", low=1e-3)
    video_text: float = setting(1.0, "weight of video and text; the total is divided by the sum of weights", low=0)
    video_audio: float = setting(1.0, "weight of video and audio", low=0)
    audio_text: float = setting(0.0, "weight of audio and text, which meet through the video's projection", low=0)
    empty_sentences: bool = setting(False, "sentences without a known word are candidates, as in the code")
    crop: str = setting("vgg", "which part of the frames is seen", choices=WAYS)
    flip: float = setting(0.5, "chance that a film is mirrored; text may tell left from right", low=0, high=1)
    colour: float = setting(1.0, "strength of the changes of colour, the code's at 1; 0 for none", low=0, high=1)
    noise: float = setting(0.01, "deviation of the noise added to sounds, as a share of their peak", low=0)

    @property
    def compared(self) -> list[tuple[str, str, float]]:
        pairs = ("video", "text"), ("video", "audio"), ("audio", "text")
        weighed = [(x, y, getattr(self, f"{x}_{y}")) for x, y in pairs if x in self.fields and y in self.fields]
        return [pair for pair in weighed if pair[2]]


# For some hundred short clips of small frames and one CPU core, the mechanism whole: a four-hundredth of the steps at
# twenty times the rate, and nothing dropped but tokens. 16 frames of 32 pixels at 8 a second in boxes of 4 x 8 x 8 are
# 64 tokens, 2 s of sound at 8 kHz 125. Transformers of 3 blocks of 96; spaces a quarter as wide. Words start at random,
# so they are trained. Films are not mirrored and keep most of their colours, of which captions tell. Weights as small
# as the code's at the start would leave pixels and samples unheard beside their places for hundreds of steps.
SMALL = Settings(
    encoder="vatt_video_mini", audio_encoder="vatt_audio_mini", text_encoder="vatt_text_mini", size=32, frames=16,
    fps=8.0, patch=8, rate=8000, epochs=80, epoch_steps=None, warmup_epochs=2, batch_size=32, lr=2e-3, lr_batch=32,
    lr_end=0.0, fine=128, coarse=64, word_width=64, train_words=True, stem=3.0, dropout=0.0, flip=0.0, colour=0.25,
)  # fmt: skip


class VATT(Method):
    title = "VATT"
    paper = "Akbari et al. 2021, VATT: Transformers for Multimodal Self-Supervised Learning, arXiv 2104.11178"
    modality = "video+audio+text"
    family = "cross-modal"
    Settings = Settings
    presets = {
        "paper": Settings(),  # MBS: video Medium, audio Base, text Small
        "agnostic": Settings(agnostic=True, audio_encoder="vatt_audio_medium", text_encoder="vatt_text_medium"),
        "base": Settings(encoder="vatt_video_base"),
        "large": Settings(encoder="vatt_video_large"),
        "small": SMALL,
        "small_agnostic": replace(SMALL, agnostic=True),
    }
    tiny = {"frames": 4, "fps": 2.0, "rate": 1000, "vocabulary": ("a", "one", "two", "three")}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        return clip_problems(s)

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        made = clip_encoders(s)
        for of in made.keys() - {"text"}:
            encoders.set_drop_token(made[of], s.drop_token, s.drop_each)
        self.how = {"kind": s.head, "fine": s.fine, "coarse": s.coarse, "audio_text": s.audio_text > 0}
        self.head = common_space(widths={of: encoder.width for of, encoder in made.items()}, **self.how)
        (self.first, self.encoder), *others = made.items()
        self.others = nn.ModuleDict(others)

    @property
    def encoders(self) -> dict[str, encoders.Encoder]:
        """By modality; the first is the video's, or the sound's where there is none."""
        return {self.first: self.encoder, **self.others}

    def hand_over(self, run: Path) -> None:
        encoders.save_joint(run, self.encoders, self.head, self.how, [(x, y) for x, y, _ in self.s.compared])

    def views(self) -> list[View]:
        """Of one moment: a crop and colours of the film, the sound with noise, the sentences around."""
        s, inputs, colours = self.s, self.s.inputs, tuple(most * self.s.colour for most in COLOURS)
        made = {
            "video": FilmClip(inputs["video"], way=s.crop, flip=s.flip, colours=colours if s.colour else None),
            "audio": WaveClip(inputs["audio"], noise=s.noise, of=0),
            "text": SentenceBag(inputs["text"], s.seconds, of=0),
        }
        return [made[of] for of in self.encoders]

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        s, features, there = self.s, {}, {}
        for (of, encoder), view in zip(self.encoders.items(), views, strict=True):
            x, valid = view["image"], view["valid"]
            if of == "text":  # [B, L, W]: every sentence by itself
                valid = valid[:, None] & ((x != 0).any(2) | s.empty_sentences)
                x = x.flatten(0, 1)
            features[of], there[of] = encode_there(encoder, x, valid.flatten()), valid
        z = self.head(features)
        terms, signals, total = {}, {"features": features[self.first].detach()}, sum(w for *_, w in s.compared)
        for x, y, weight in s.compared:
            left, right = z[x, y], z[y, x].unflatten(0, there[y].shape)  # [B, D], [B, D] or [B, L, D]
            masks = {"valid_x": there[x], "valid_y": there[y]}
            nce = cross_modal_nce(left, right, s.temperature, form=s.objective, **masks)
            terms[f"{x}_{y}"] = weight / total * nce
            own, known = (right[:, 0], there[y][:, 0]) if y == "text" else (right, there[y])
            own, left = own.detach(), left.detach()
            signals[f"metric/{y}_to_{x}"] = recall_at_1(own, left, known & there[x])
            if "embeddings" not in signals or y == "audio":  # the side that no BatchNorm keeps apart: at first all of
                sides = {"embeddings": own, "positives": left}  # it has a direction in common, which it leaves later
                signals |= {name: about_mean(side, views=1)["embeddings"] for name, side in sides.items()}
        return Step(terms, signals)
