import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from tacit import encoders
from tacit.errors import UsageError
from tacit.evaluation.detection import cascade, detector
from tacit.evaluation.detection.models import Anchors, pool

SMALL = {"channels": 16, "hidden": 32, "rois": 32, "proposals": (60, 60), "size": (64, 96)}


def encoder(name: str = "swin_mini") -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(name, size=32)


def example(height: int, width: int, boxes: list, masks: bool = True) -> tuple[torch.Tensor, dict]:
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height + width))
    drawn = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for m, (x1, y1, x2, y2) in zip(drawn, boxes, strict=True):
        m[y1:y2, x1:x2] = 1
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.arange(len(boxes)) % 3 + 1,
        "masks": drawn,
    }
    return image, target if masks else {k: v for k, v in target.items() if k != "masks"}


@pytest.mark.parametrize(("name", "millions"), [("mask_rcnn", 48), ("cascade_mask_rcnn", 86)])
def test_parameters_of_swin_tiny_are_as_published(name, millions):
    """48 and 86 million in the table of Swin's detectors on COCO (80 classes)."""
    with torch.device("meta"):
        model = detector(name, encoders.build("swin_tiny", size=224), 80)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["rpn.head.cls_logits.weight"] == (3, 256, 1, 1)
    if name == "mask_rcnn":
        assert shapes["roi_heads.box_head.fc6.weight"] == (1024, 256 * 49)
        assert shapes["roi_heads.box_predictor.bbox_pred.weight"] == (81 * 4, 1024)
        assert shapes["roi_heads.mask_predictor.mask_fcn_logits.weight"] == (81, 256, 1, 1)
    else:
        for i in range(3):
            head = [
                v for k, v in shapes.items() if k.startswith(f"roi_heads.stages.{i}.box_head") and k.endswith("weight")
            ]
            assert sorted(len(s) for s in head) == [1] * 4 + [2] + [4] * 4  # 4 convs with their norms + 1 fc
            assert (1024, 256 * 49) in head


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
@pytest.mark.parametrize("trunk", ["swin_mini", "vit_mini"])
def test_losses_in_training_and_detections_in_test(name, trunk):
    model = detector(name, encoder(trunk), 3, **SMALL)
    pairs = [example(64, 90, [(5, 5, 30, 40), (40, 10, 80, 50)]), example(50, 64, [])]
    images, targets = map(list, zip(*pairs, strict=True))
    losses = model.train()(images, targets)
    heads = {"loss_classifier", "loss_box_reg", "loss_mask"}
    stages = heads if name == "mask_rcnn" else {f"{loss}_{i}" for loss in heads for i in range(3)}
    assert set(losses) == stages | {"loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    found = model.eval()
    for head in found.roi_heads.stages if name != "mask_rcnn" else [found.roi_heads]:
        head.score_thresh = 0.0
    with torch.no_grad():
        result = found(images)
    for r, (image, _) in zip(result, pairs, strict=True):
        h, w = image.shape[-2:]
        assert 0 < len(r["boxes"]) <= 100
        assert r["masks"].shape == (len(r["boxes"]), 1, h, w)
        assert set(r["labels"].tolist()) <= {1, 2, 3}
        assert r["boxes"].min() >= 0
        assert (r["boxes"].amax(0) <= torch.tensor([w, h, w, h]) + 1e-3).all()
        assert (r["scores"][:-1] >= r["scores"][1:]).all()


def test_masks_may_be_left_out_or_stand_on_the_last_stage_alone():
    image, target = example(64, 64, [(5, 5, 30, 40)], masks=False)
    losses = detector("cascade_mask_rcnn", encoder(), 3, masks=False, **SMALL)([image], [target])
    assert not any("mask" in name for name in losses)
    pair = example(64, 64, [(5, 5, 30, 40)])
    model = detector("cascade_mask_rcnn", encoder(), 3, masks_on="last", **SMALL)
    assert [n for n in model([pair[0]], [pair[1]]) if "mask" in n] == ["loss_mask_2"]
    assert [stage.has_mask() for stage in model.roi_heads.stages] == [False, False, True]


def test_the_stages_of_the_cascade_are_as_published():
    stages = detector("cascade_mask_rcnn", encoder(), 3, **SMALL).roi_heads.stages
    assert [s.proposal_matcher.high_threshold for s in stages] == [0.5, 0.6, 0.7]
    assert [s.proposal_matcher.low_threshold for s in stages] == [0.5, 0.6, 0.7]
    assert [s.box_coder.weights for s in stages] == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    assert cascade.LOSS_WEIGHTS == (1, 0.5, 0.25)


def test_the_box_loss_is_ten_times_giou_over_all_regions():
    """GIoU of (0, 0, 10, 10) and (5, 0, 15, 10): 50 / 150, nothing of the hull of 150 is empty; 1 - 1/3 = 2/3."""
    decoded = torch.zeros(4, 3, 4)
    decoded[:, 2] = torch.tensor([5.0, 0, 15, 10])
    truth, labels = torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1), torch.tensor([2, 0, 0, 0])
    assert cascade.box_loss(decoded, truth, labels).item() == pytest.approx(10 * (2 / 3) / 4, abs=1e-5)
    assert cascade.box_loss(decoded, truth, labels * 0).item() == 0


def test_refined_boxes_are_those_of_the_class_inside_the_image():
    decoded = torch.tensor([[[0.0, 0, 1, 1], [-5, 2, 8, 30]], [[1, 1, 2, 2], [3, 3, 4, 4]]])
    first, second = cascade.refine(decoded, torch.tensor([1, 0]), [1, 1], [(20, 10), (20, 10)])
    assert first.tolist() == [[0, 2, 8, 20]]
    assert second.tolist() == [[1, 1, 2, 2]]


def test_scores_are_averaged_over_the_stages_and_boxes_refined_from_stage_to_stage():
    model = detector("cascade_mask_rcnn", encoder(), 3, masks=False, **SMALL).eval()
    proposals, sizes = [torch.tensor([[10.0, 10, 42, 42]])], [(64, 64)]
    for i, stage in enumerate(model.roi_heads.stages):
        stage.score_thresh = 0.0
        for linear in (stage.box_predictor.cls_score, stage.box_predictor.bbox_pred):
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
        stage.box_predictor.cls_score.bias.data[2] = float(i)  # logits 0, 1, 2: their mean is 1
        stage.box_predictor.bbox_pred.bias.data[2 * 4] = stage.box_coder.weights[0] * 0.125  # 4 pixels to the right
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, 64, 64))
        found, losses = model.roi_heads(features, proposals, sizes)
    assert losses == {}
    best = found[0]["labels"].tolist().index(2)
    expected = F.softmax(torch.tensor([0.0, 0, 1, 0]), 0)[2]
    assert found[0]["scores"][best].item() == pytest.approx(expected.item(), abs=1e-6)
    # the first stage's argmax among equal logits is class 1, which does not move; the other two move class 2
    assert found[0]["boxes"][best].tolist() == pytest.approx([18, 10, 50, 42], abs=1e-3)


def test_anchors_and_regions_know_their_strides_under_any_padding():
    strides = [4, 8, 16, 32, 64]
    maps = [torch.zeros(1, 1, -(-224 // s), -(-448 // s)) for s in strides]
    anchors = Anchors(strides)(ImageList(torch.zeros(1, 3, 224, 448), [(100, 90)]), maps)[0]
    last = anchors[-4 * 7 * 3 :].reshape(4, 7, 3, 4)
    centres = (last[..., :2] + last[..., 2:]) / 2
    assert torch.equal(centres[1, 2, 1], torch.tensor([128.0, 64.0]))  # not 2 x (448 // 7), 1 x (224 // 4) = 56
    assert (last[0, 0, 1, 2:] - last[0, 0, 1, :2]).tolist() == [512, 512]
    model = detector("mask_rcnn", encoder(), 3, **SMALL)
    align = pool(model.backbone, 7)
    features = {str(i): torch.randn(1, 2, 64 // s, 64 // s) for i, s in enumerate((2, 4, 8))}
    box = torch.tensor([[4.0, 4, 20, 20]])
    ours = align(features, [box], [(17, 23)])  # of an image far smaller than its padding
    theirs = roi_align(features["0"], [box], 7, 1 / 2)
    torch.testing.assert_close(ours, theirs)


def test_what_is_no_detector_is_said():
    for name, classes, changes in (("yolo", 3, {}), ("mask_rcnn", 0, {}), ("mask_rcnn", 3, {"masks_on": "first"})):
        with pytest.raises(UsageError, match="mask_rcnn, cascade_mask_rcnn"):
            detector(name, encoder(), classes, **changes)
