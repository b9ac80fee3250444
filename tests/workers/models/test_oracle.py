"""The image processor that comes with a model is the oracle: heatmill makes its tensors, or refuses the model."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill.errors import ModelUnavailable
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.engine.perturbation.segments import as_photos
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.models.loaders import timm as timm_loader
from heatmill_workers.models.loaders import torchvision as torchvision_loader
from heatmill_workers.models.loaders.transformers import preprocessing_of
from heatmill_workers.models.loading import load, prepare
from heatmill_workers.models.oracle import Disagreement, agreeing, colours, pictures, processed, require_agreement
from heatmill_workers.models.preprocessing import preprocess
from tests.workers.small import CPU, LABELS, architecture
from tests.workers.vits import of_transformers

timm: Any = import_module("timm")
transformers: Any = import_module("transformers")

SPEC = ModelSpec(name="mine", loader="transformers")
SQUARE = {"height": 64, "width": 64}
# Grey levels of 255: bytes are rounded on the way.
ROUNDING = 0.8


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(5).integers(40, 216, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def levels_apart(process: Callable[[Image.Image], Tensor], preprocessing: Preprocessing, image: Image.Image) -> float:
    """The mean difference of the tensors in grey levels."""
    ours = preprocess(image, preprocessing)[0]
    difference = (ours - process(image)).abs() * torch.tensor(preprocessing.std).view(3, 1, 1)
    return float(difference.mean()) * 255


def with_processor(processor: Any) -> Callable[[Image.Image], Tensor]:
    return lambda image: torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"][0]).float()


def processor(name: str, **settings: Any) -> Any:
    return getattr(transformers, f"{name}ImageProcessor")(**settings)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (processor("ViT", size=SQUARE), {"resize": (64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}),
        (processor("ViT", size=SQUARE, do_normalize=False), {"mean": (0,) * 3, "std": (1,) * 3}),
        (processor("ViT", size=SQUARE, rescale_factor=1 / 127.5), {"mean": (0.25,) * 3, "std": (0.25,) * 3}),
        (processor("ViT", size=SQUARE, do_rescale=False), {"mean": (0.00196078,) * 3, "std": (0.00196078,) * 3}),
        (processor("ViT", size=SQUARE, do_rescale=False, do_normalize=False), {"std": (0.00392157,) * 3}),
        (
            transformers.ViTImageProcessorPil(size={"height": 48, "width": 80}, resample=0),
            {"interpolation": "nearest", "crop": (48, 80)},
        ),
        (processor("ViT", size=SQUARE, resample=1), {"interpolation": "lanczos"}),
        (processor("ViT", size=SQUARE, image_mean=[0.1, 0.2, 0.3]), {"mean": (0.1, 0.2, 0.3)}),
        (processor("MobileViT", size={"shortest_edge": 72}, crop_size=SQUARE), {"channel_order": "BGR", "resize": 72}),
        (processor("MobileViT", size={"shortest_edge": 72}, do_flip_channel_order=False), {"channel_order": "RGB"}),
        (processor("EfficientNet", size=SQUARE), {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        (processor("EfficientNet", size=SQUARE, include_top=False), {"std": (0.5,) * 3}),
        (
            processor("EfficientNet", size=SQUARE, rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False),
            {"mean": (0.5,) * 3, "std": (0.25,) * 3},
        ),
        (processor("ConvNext", size={"shortest_edge": 64}, crop_pct=0.8), {"resize": 80, "crop": (64, 64)}),
        (processor("ConvNext", size={"shortest_edge": 384}), {"resize": (384, 384), "crop": (384, 384)}),
        (
            processor("PoolFormer", size={"shortest_edge": 64}, crop_pct=0.9, crop_size={"height": 60, "width": 60}),
            {"resize": 71, "crop": (60, 60)},
        ),
        (processor("Levit", size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}), {"resize": 64}),
        (processor("DeiT", size={"height": 72, "width": 72}, crop_size=SQUARE), {"resize": (72, 72)}),
        (processor("Bit", size={"shortest_edge": 81}, crop_size=SQUARE), {"resize": 81, "crop_rounding": "down"}),
        (processor("Bit", size={"shortest_edge": 60}, crop_size=SQUARE), {"resize": 60}),
        (
            transformers.PPLCNetImageProcessor(resize_short=72, crop_size=64),
            {"channel_order": "BGR", "fit": "cover", "mean": (0.485, 0.456, 0.406)},
        ),
        (processor("CLIP"), {"mean": (0.48145466, 0.4578275, 0.40821073)}),
    ],
)
def test_what_an_image_processor_does_is_done(made: Any, expected: Mapping[str, object]) -> None:
    found = preprocessing_of(SPEC, [made])

    assert expected.items() <= found.model_dump().items()
    for size in ((331, 449), (513, 300), (90, 95)):
        assert levels_apart(with_processor(made), found, picture(*size)) < ROUNDING


def test_a_processor_that_picks_another_of_two_pixels_as_near_is_refused() -> None:
    settings = {"size": {"height": 224, "width": 224}, "resample": 0}
    pillow = transformers.ViTImageProcessorPil(**settings)

    with pytest.raises(ModelUnavailable, match="otherwise than its settings say"):
        preprocessing_of(SPEC, [processor("ViT", **settings), pillow])
    assert levels_apart(with_processor(pillow), preprocessing_of(SPEC, [pillow]), picture(640, 480)) < 0.01


@pytest.mark.parametrize("resample", [4, 5])
def test_a_filter_that_torchvision_lacks_is_pillows(resample: int) -> None:
    pillow = transformers.ViTImageProcessorPil(size=SQUARE, resample=resample)

    found = preprocessing_of(SPEC, [processor("ViT", size=SQUARE, resample=resample), pillow])

    assert found.interpolation == {4: "box", 5: "hamming"}[resample]
    assert levels_apart(with_processor(pillow), found, picture(331, 449)) < 0.01


class WithoutSettings:
    """A processor of somebody's own that says nothing of what it does."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self.change, self.size = change, SQUARE

    def __call__(self, image: Image.Image, return_tensors: str) -> dict[str, Tensor]:
        """The photo at 64 x 64, changed."""
        small = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
        return {"pixel_values": self.change(torch.tensor(small).permute(2, 0, 1) / 255).unsqueeze(0)}


def test_a_processor_of_somebodys_own_is_known_by_what_it_does() -> None:
    mean, std = torch.tensor([0.3, 0.4, 0.5]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)

    found = preprocessing_of(SPEC, [WithoutSettings(lambda photo: (photo.flip(0) - mean) / std)])

    assert found == Preprocessing(
        resize=(64, 64),
        crop=(64, 64),
        interpolation="bicubic",
        channel_order="BGR",
        mean=(0.3, 0.4, 0.5),
        std=(0.2, 0.3, 0.4),
    )


class SmallAtFirst(WithoutSettings):
    """One that makes large photos smaller before all else, in another way."""

    def __init__(self) -> None:
        super().__init__(lambda photo: photo)

    def __call__(self, image: Image.Image, return_tensors: str) -> dict[str, Tensor]:
        """The photo at 64 x 64."""
        image = image.copy()
        image.thumbnail((640, 640), Image.Resampling.NEAREST)
        return super().__call__(image, return_tensors)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (WithoutSettings(lambda photo: photo.mean(0, keepdim=True).expand(3, -1, -1)), "mixes red, green and blue"),
        (WithoutSettings(lambda photo: photo[[1, 0, 2]]), "orders them neither RGB nor BGR"),
        (WithoutSettings(lambda photo: photo**2.2), "along a curve"),
        (WithoutSettings(lambda photo: 1 - photo), "turns brightness around"),
        (WithoutSettings(lambda photo: photo[:1]), r"makes \(1, 64, 64\) of a photo"),
        (WithoutSettings(lambda photo: photo.permute(1, 2, 0)), r"makes \(64, 64, 3\) of a photo"),
        (WithoutSettings(lambda photo: photo / 0), "not finite"),
        (WithoutSettings(lambda photo: photo.roll(1, 2)), "resizes, crops or colours photos otherwise"),
        (WithoutSettings(lambda photo: (photo - photo.mean()) / photo.std()), "not finite"),
        (WithoutSettings(lambda photo: photo / photo.amax()), "not finite"),
        (WithoutSettings(lambda photo: photo - photo.mean() / 2), "goes by the brightness of the whole photo"),
        (SmallAtFirst(), "otherwise"),
        (processor("Perceiver"), "resizes, crops or colours photos otherwise than its settings say"),
        (processor("TextNet"), "which make no batch"),
        (processor("ViT", do_resize=False), r"make no batch \(its do_resize is false\)"),
        (processor("Bit", do_resize=False, crop_size=SQUARE), r"\(its do_resize is false\)"),
        (processor("Bit", size={"shortest_edge": 60, "longest_edge": 90}), "bounds the longer side"),
        (processor("Siglip2"), r"makes \(256, 768\) of a photo"),
        (processor("ImageGPT", size=SQUARE, clusters=[[0.0] * 3, [1.0] * 3]), "makes input_ids of a photo"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_it_is_and_what_cures_it(made: Any, message: str) -> None:
    with pytest.raises(ModelUnavailable, match=rf"(?s)mine.*image processor.*{message}.*\[models\.preprocessing\]"):
        preprocessing_of(SPEC, [made])


def saved(folder: Path, made: Any) -> ModelSpec:
    inner: Any = of_transformers().module.inner
    inner.config.id2label = dict(enumerate(LABELS))
    inner.save_pretrained(folder)
    if made is not None:
        made.save_pretrained(folder)
    return ModelSpec(name="mine", loader="transformers", architecture=str(folder))


@pytest.mark.parametrize(
    "made",
    [
        processor("MobileViT", size={"shortest_edge": 72}, crop_size=SQUARE),
        processor("EfficientNet", size=SQUARE, image_std=[0.47853944, 0.4732864, 0.47434163], resample=0),
        processor("ViT", size=SQUARE, do_rescale=False),
    ],
)
def test_a_folders_model_says_of_a_photo_what_transformers_says(made: Any, tmp_path: Path) -> None:
    model, photo = load(saved(tmp_path, made), CPU), picture(301, 407)

    with torch.no_grad():
        ours = model.module(preprocess(photo, model.preprocessing)[0].unsqueeze(0))
        theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)(
            **transformers.AutoImageProcessor.from_pretrained(tmp_path)(photo, return_tensors="pt")
        ).logits

    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * float(theirs.abs().max()))


def test_a_folder_without_a_processor_asks_for_preprocessing(tmp_path: Path) -> None:
    spec = saved(tmp_path, None)

    with pytest.raises(
        ModelUnavailable, match=r"no image processor.*preprocessor_config.json.*\[models.preprocessing\]"
    ):
        load(spec, CPU)

    given = spec.model_copy(update={"preprocessing": Preprocessing(resize=64, crop=64)})
    assert load(given, CPU).preprocessing == given.preprocessing


def test_a_folder_for_grey_images_is_refused_by_its_channels(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        num_channels=1,
        num_labels=3,
        image_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    processor("ViT", size=SQUARE, image_mean=[0.5], image_std=[0.5]).save_pretrained(tmp_path)

    with pytest.raises(ModelUnavailable, match="mine reads images of 1 channels; photos have 3"):
        load(ModelSpec(name="mine", loader="transformers", architecture=str(tmp_path)), CPU)


TIMM: dict[str, Any] = {"input_size": (3, 64, 64), "crop_pct": 0.9, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


@pytest.mark.parametrize("size", [(3, 64, 64), (3, 48, 80)])
@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_what_timm_does_is_done(size: tuple[int, int, int], mode: str, interpolation: str) -> None:
    config = {**TIMM, "input_size": size, "crop_mode": mode, "interpolation": interpolation}
    process = timm.data.create_transform(**config, is_training=False)

    found = require_agreement(SPEC, "timm", process, timm_loader.of_config(SPEC, config))

    for shape in ((331, 449), (513, 300), (90, 95)):
        assert levels_apart(process, found, picture(*shape)) < 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_mode": "border"}, "border of its mean colour"),
        ({"input_size": (1, 64, 64)}, "images of 1 channels"),
        ({"interpolation": "random"}, r"interpolation = 'random'.*\[models.preprocessing\]"),
    ],
)
def test_what_timm_does_and_heatmill_cannot_is_refused(settings: dict[str, Any], message: str) -> None:
    config = {**TIMM, "crop_mode": "center", "interpolation": "bicubic", **settings}

    with pytest.raises(ModelUnavailable, match=rf"mine.*{message}"):
        timm_loader.of_config(SPEC, config)


def test_a_timm_model_in_a_transformers_folder_is_prepared_as_timm_does(tmp_path: Path) -> None:
    config = {**TIMM, "crop_mode": "center", "interpolation": "bicubic", "architecture": "test_vit"}
    made = transformers.TimmWrapperImageProcessor(pretrained_cfg=config, architecture="test_vit")

    found = preprocessing_of(SPEC, [made])

    assert found.resize == 71
    assert levels_apart(made.val_transforms, found, picture(331, 449)) < 0.01


def test_settings_that_do_not_say_what_the_library_does_are_refused() -> None:
    process = timm.data.create_transform(**TIMM, is_training=False)

    with pytest.raises(
        ModelUnavailable, match=r"mine: its image processor timm resizes, crops or colours .* otherwise"
    ):
        require_agreement(SPEC, "timm", process, Preprocessing(resize=72, crop=64, mean=TIMM["mean"], std=TIMM["std"]))


def test_a_tensor_of_another_size_is_no_agreement() -> None:
    process = timm.data.create_transform(**TIMM, is_training=False)

    with pytest.raises(Disagreement, match="makes 64 x 64 and 64 x 64 pixels of two photos"):
        agreeing(processed(process), [Preprocessing(resize=64, crop=60)])


def test_declared_numbers_are_kept_digit_by_digit_only_if_they_are_true() -> None:
    mean, std = (0.123456789, 0.4, 0.5), (0.2, 0.3, 0.4)
    process = timm.data.create_transform(input_size=(3, 32, 32), mean=mean, std=std, is_training=False)

    assert colours(process, (mean, std)).mean == mean
    assert colours(process, ((0.5,) * 3, std)).mean == pytest.approx(mean, abs=1e-6)


def reading(order: str) -> LoadedModel:
    """A ResNet that reads RGB or BGR, with the same answers."""
    module = architecture("resnet18")
    if order == "BGR":
        first = module.conv1
        assert isinstance(first, nn.Conv2d)
        first.weight.data = first.weight.data.flip(1)
    means, stds = ((0.2, 0.4, 0.6), (0.3, 0.2, 0.25)), slice(None, None, 1 if order == "RGB" else -1)
    preprocessing = Preprocessing.model_validate(
        {"resize": 64, "crop": 64, "channel_order": order, "mean": means[0][stds], "std": means[1][stds]}
    )
    return prepare(ModelSpec(name="small", loader="torchvision"), Built(module, preprocessing, LABELS), CPU)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("saliency", {}),
        ("integrated_gradients", {"steps": 3, "baseline": "black"}),
        ("deep_lift", {"baseline": "white"}),
        ("gradient_shap", {"samples": 4}),
        ("partition_shap", {"max_evals": 8, "masker": "black"}),
        ("lime", {"samples": 20}),
        ("grad_cam", {}),
    ],
)
def test_a_model_that_reads_bgr_is_explained_in_the_photos_own_colours(method: str, params: dict[str, Any]) -> None:
    targets = torch.tensor([3])
    answers = []
    for order in ("RGB", "BGR"):
        model = reading(order)
        image = preprocess(picture(80, 70), model.preprocessing)[0].unsqueeze(0)
        (answer,) = explain(method, model, image, targets, params)
        assert isinstance(answer, Explanation)
        answers.append(answer.attribution)

    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-3, atol=1e-4 * np.abs(answers[0]).max())


def test_a_photo_made_of_a_bgr_tensor_has_its_own_colours() -> None:
    photo = Image.new("RGB", (32, 32), (200, 100, 50))
    preprocessing = Preprocessing(resize=32, crop=32, channel_order="BGR", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))

    tensor = preprocess(photo, preprocessing)[0]

    assert tensor[:, 0, 0].tolist() == pytest.approx(
        [(50 / 255 - 0.1) / 0.5, (100 / 255 - 0.2) / 0.6, (200 / 255 - 0.3) / 0.7]
    )
    assert as_photos(tensor.unsqueeze(0), preprocessing)[0, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (304, 288), (232, 224), (73, 64), (72, 64), (438, 384)])
def test_the_two_ways_to_round_a_crop_are_told_apart(resize: int, crop: int) -> None:
    both = [
        Preprocessing.model_validate({"resize": resize, "crop": crop, "crop_rounding": rounding})
        for rounding in ("down", "even")
    ]

    for wanted in both:
        made = [preprocess(image, wanted)[0] for image in pictures()]
        assert agreeing(made, both) == wanted


@pytest.mark.verify
@pytest.mark.parametrize("name", torchvision_loader.names())
def test_every_preset_of_torchvision_is_made(name: str) -> None:
    process = torchvision_loader.published(name).transforms()

    require_agreement(SPEC, name, process, torchvision_loader.published_preprocessing(name))


@pytest.mark.verify
def test_every_setting_of_timms_models_is_made() -> None:
    seen: set[str] = set()
    for name in timm.list_models(pretrained=True, include_tags=True):
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        if config["crop_mode"] == "border" or str(config) in seen:
            continue
        seen.add(str(config))
        process = timm.data.create_transform(**config, is_training=False)
        require_agreement(SPEC, name, process, timm_loader.of_config(SPEC, config))
    assert len(seen) > 100


def processors_of_classifiers() -> list[str]:
    auto = import_module("transformers.models.auto.modeling_auto").MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    known = import_module("transformers.models.auto.image_processing_auto").IMAGE_PROCESSOR_MAPPING_NAMES
    return sorted({name for kind in auto for name in (known.get(kind) or {}).values()} - {"TimmWrapperImageProcessor"})


# What transformers has for classifiers and heatmill cannot do.
# MobileViT's default crops 256 pixels out of photos resized to 224. Where an odd number of rows is missing,
# transformers puts the one more above the photo by Pillow, and below by torchvision, which it prefers and which agrees.
REFUSED = {"Donut", "ImageGPT", "Perceiver", "Siglip2", "TextNet", "MobileViTImageProcessorPil"}


@pytest.mark.verify
@pytest.mark.parametrize("name", processors_of_classifiers())
def test_every_processor_of_transformers_is_done_or_refused(name: str) -> None:
    made = getattr(transformers, name)()

    if name in REFUSED or name.partition("ImageProcessor")[0] in REFUSED:
        with pytest.raises(ModelUnavailable, match=r"\[models\.preprocessing\]"):
            preprocessing_of(SPEC, [made])
        return
    found = preprocessing_of(SPEC, [made])
    for size in ((331, 449), (1031, 700), (90, 95)):
        assert levels_apart(with_processor(made), found, picture(*size)) < ROUNDING
