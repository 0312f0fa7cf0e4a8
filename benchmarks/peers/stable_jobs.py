"""stable-pretraining's methods and transforms, for the jobs that it has. Run by benchmarks/jobs.py."""

import timm
from loop import train  # beside this file
from stable_pretraining.data import transforms
from stable_pretraining.methods import DINO, MAE, MoCov3, SimMIM

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def crop(size: int, scale: tuple[float, float], blur: float, solarize: float = 0.0):
    return transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((size, size), scale=scale),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.PILGaussianBlur(p=blur),
        transforms.RandomSolarize(threshold=0.5, p=solarize),
        transforms.ToImage(mean=MEAN, std=STD),
    )


def several(*views):
    return lambda image: [view({"image": image})["image"] for view in views]


def moco_v3():
    trunk = timm.create_model("deit_small_patch16_224", num_classes=0, num_heads=12)
    model = MoCov3(trunk)
    teachers = [model.backbone, model.projector]

    def loss(views):
        for part in teachers:
            part.update_teacher()
        return model(*views).loss

    return several(crop(224, (0.08, 1), 1.0), crop(224, (0.08, 1), 0.1, 0.2)), model, loss


def dino():
    model = DINO("vit_tiny_patch16_224", encoder_kwargs={"dynamic_img_size": True, "drop_path_rate": 0.1})
    teachers = [model.backbone, model.projector]

    def loss(views):
        for part in teachers:
            part.update_teacher()
        return model(views[:2], views[2:]).loss

    both = crop(224, (0.4, 1), 1.0), crop(224, (0.4, 1), 0.1, 0.2)
    return several(*both, *[crop(96, (0.05, 0.4), 0.5)] * 6), model, loss


def plain():
    return transforms.Compose(
        transforms.RGB(), transforms.RandomResizedCrop((224, 224), scale=(0.2, 1)),
        transforms.RandomHorizontalFlip(p=0.5), transforms.ToImage(mean=MEAN, std=STD),
    )  # fmt: skip


def mae():
    model = MAE("vit_small_patch16_224", norm_pix_loss=False)
    return several(plain()), model, lambda views: model(views[0]).loss


def simmim():
    model = SimMIM("vit_small_patch16_224")
    return several(plain()), model, lambda views: model(views[0]).loss


train({"moco_v3": moco_v3, "dino": dino, "mae": mae, "simmim": simmim})
