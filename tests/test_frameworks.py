"""convert and PDReLU inside timm, transformers, Lightning and Accelerate; docs/frameworks.md runs.

Models are untrained and small; nothing is downloaded.
"""

import copy
import dis
import functools
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import accelerate
import lightning
import pytest
import timm
import torch
import torchvision
import transformers
from relu_oracle import LEAKY, check_converts, compare, gradients, leaky_gradients
from torch import nn
from transformers.activations import ACT2FN

from pdsearch import PDReLU, convert, fade, library, relu_sites, set_progress
from pdsearch.autograd import scan

# Of these libraries, about torch's and one another's interfaces.
pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = (Path(__file__).parent.parent / "docs" / "frameworks.md").read_text(encoding="utf-8")
_, *SECTIONS = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
EXAMPLES = {
    title: re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    for title, section in zip(SECTIONS[::2], SECTIONS[1::2], strict=True)
    if "```python" in section
}
PD = functools.partial(PDReLU, LEAKY)
FADED = fade(library()["exp_tail"], "linear", end=1.0).default


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate, which the Trainer uses too, keeps its precision for the whole process."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("library", EXAMPLES)
def test_the_example_runs(
    library: str, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run a section's blocks in order in one namespace."""
    monkeypatch.delitem(ACT2FN, "pd", raising=False)
    namespace: dict[str, Any] = {}
    for block in EXAMPLES[library]:
        exec(compile(block, "docs/frameworks.md", "exec"), namespace)
    if "print(" in "".join(EXAMPLES[library]):
        assert "PDReLU(exp_tail(alpha=0.3, beta=1)" in capsys.readouterr().out
    monkeypatch.delitem(ACT2FN, "pd", raising=False)


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 8
    for file, function in named:
        assert f"def {function}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")


def progress(model: nn.Module) -> set[float]:
    return {module.progress for module in model.modules() if isinstance(module, PDReLU)}


# ---------------------------------------------------------------------------------- the models


def images(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def resnet(activation: str = "relu") -> tuple[nn.Module, Any]:
    size: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
    size["num_labels"] = 3
    config = transformers.ResNetConfig(hidden_act=activation, **size)
    return transformers.ResNetForImageClassification(config), {"pixel_values": images()}


def opt(activation: str = "relu") -> tuple[nn.Module, Any]:
    size: dict[str, Any] = {"hidden_size": 16, "ffn_dim": 32, "num_attention_heads": 2}
    size["word_embed_proj_dim"] = 16
    config = transformers.OPTConfig(
        vocab_size=50,
        num_hidden_layers=2,
        max_position_embeddings=32,
        activation_function=activation,
        **size,
    )
    return transformers.OPTForCausalLM(config), {"input_ids": torch.arange(10).reshape(2, 5)}


def t5(activation: str = "relu") -> tuple[nn.Module, Any]:
    size: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    size["decoder_start_token_id"] = 0
    config = transformers.T5Config(vocab_size=50, feed_forward_proj=activation, **size)
    ids = torch.arange(10).reshape(2, 5)
    return transformers.T5ForConditionalGeneration(config), {"input_ids": ids, "labels": ids}


def squared() -> tuple[nn.Module, Any]:
    """Transformers' relu², which calls `F.relu`, as Primer and Nemotron use it."""
    return opt("relu2")


def timms() -> tuple[nn.Module, Any]:
    return timm.create_model("lcnet_035", num_classes=5, act_layer=nn.ReLU), images()


def torchvisions() -> tuple[nn.Module, Any]:
    return torchvision.models.squeezenet1_1(num_classes=5), images()


MODELS = (resnet, opt, t5, squared, timms, torchvisions)
Make = Callable[[], tuple[nn.Module, Any]]


@pytest.mark.parametrize(
    ("make", "recompute"),
    # transformers' ResNet has no gradient checkpointing.
    [(resnet, False), (opt, False), (opt, True), (t5, False), (t5, True), (squared, False)],
)
def test_transformers(make: Make, recompute: bool) -> None:
    torch.manual_seed(0)
    model, example = make()
    if recompute:
        model.gradient_checkpointing_enable()
    check_converts(model.train(), example)


def test_each_function_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' models reach thousands of functions: read per method, OPT took 20 s."""
    read: Counter[CodeType] = Counter()
    plainly = dis.get_instructions

    def counted(code: CodeType, **more: Any) -> Any:
        read[code] += 1
        return plainly(code, **more)

    scan._steps.cache_clear()
    monkeypatch.setattr(dis, "get_instructions", counted)
    sites = relu_sites(opt()[0])
    assert [site.name for site in sites][-1] == "model.decoder.layers.1.activation_fn"
    assert len(read) > 1_000 and set(read.values()) == {1}


def whole(model: nn.Module) -> nn.Module:
    """Written and read as one object."""
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def compiled(model: nn.Module) -> Any:
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager")


@pytest.mark.parametrize(
    ("make", "do"),
    [
        # Compiling takes seconds, and T5 half a minute.
        pytest.param(make, do, marks=[pytest.mark.slow] * (do is compiled and make is not resnet))
        for make in MODELS
        for do in (copy.deepcopy, whole, compiled)
    ],
    ids=lambda function: function.__name__,
)
def test_converted_models(make: Make, do: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model, example = make()
    model.eval()
    wanted = leaky_gradients(model, example)
    keys = list(model.state_dict())
    model = convert(model, LEAKY, example=example)
    assert list(model.state_dict()) == keys
    compare(gradients(do(model), example), wanted)


# ------------------------------------------------------------- the module where a class is expected


def test_as_a_class_of_activations() -> None:
    """Libraries call it with and without inplace, by name (most) and by position (timm's VGG)."""
    assert not PD().inplace and PD(inplace=True).inplace and PD(True).inplace
    given = torch.tensor([-2.0, 3.0], requires_grad=True)
    overwritten = given * 1
    PD(True)(overwritten).sum().backward()
    assert overwritten.tolist() == [0.0, 3.0] and given.grad.tolist() == [0.25, 1.0]


def test_act_layer() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("resnet10t", num_classes=5, act_layer=nn.ReLU).eval()
    ours = timm.create_model("resnet10t", num_classes=5, act_layer=PD).eval()
    ours.load_state_dict(plain.state_dict())
    assert [m.inplace for m in ours.modules() if isinstance(m, PDReLU)] == [
        m.inplace for m in plain.modules() if isinstance(m, nn.ReLU)
    ]
    compare(gradients(ours, images()), leaky_gradients(plain, images()))


def test_act_layer_by_position() -> None:
    with torch.device("meta"):
        model = timm.create_model("vgg11", act_layer=PD)
    assert sum(isinstance(module, PDReLU) for module in model.modules()) == 10


@pytest.mark.parametrize("make", [opt, t5])
def test_a_name_in_act2fn(make: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model sets its buffers to uninitialised memory, which must not become g's."""
    monkeypatch.setitem(ACT2FN, "pd", PD)
    torch.manual_seed(0)
    plain, example = make()
    plain.eval().save_pretrained(workdir)
    wanted = leaky_gradients(plain, example)
    key = {opt: "activation_function", t5: "dense_act_fn"}[make]
    config = type(plain.config).from_pretrained(workdir, **{key: "pd"})
    loaded = type(plain).from_pretrained(workdir, config=config).eval()
    compare(gradients(loaded, example), wanted)
    for module in loaded.modules():  # the buffers count in compiled code
        if isinstance(module, PDReLU):
            given = torch.tensor([-1.0, 1.0], requires_grad=True)
            compiled(module)(given).sum().backward()
            assert given.grad.tolist() == [0.25, 1.0]
            break
    else:
        pytest.fail("the name made no PDReLU")


def test_what_is_written_into_buffers_is_not_kept() -> None:
    module = PDReLU(FADED)
    module.set_progress(0.5)
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for name, buffer in kept.items():
        setattr(module, name, torch.full_like(buffer, 7))
        setattr(module, name, buffer.to("meta"))
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, kept[name])
    assert not module.state_dict()


def test_built_without_memory(workdir: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), PD(), nn.Linear(8, 1))

    torch.manual_seed(0)
    full, given = make(), torch.randn(5, 4)
    torch.save(full.state_dict(), workdir / "weights.bin")
    for include_buffers in (False, True):
        with accelerate.init_empty_weights(include_buffers=include_buffers):
            empty = make()
        loaded = accelerate.load_checkpoint_and_dispatch(
            empty, str(workdir / "weights.bin"), device_map={"": "cpu"}
        )
        for module in (loaded, compiled(loaded)):
            compare(gradients(module, given), gradients(full, given))


# ------------------------------------------------------------------------------- who trains


class Net(lightning.LightningModule):
    """A faded candidate, and a ReLU that only `training_step` calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        convert(self, FADED)
        self.at: list[float] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.at += progress(self)
        return torch.relu(self.layers(batch[0]) + 1).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Progress(lightning.Callback):
    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        set_progress(module, trainer.global_step / 8)


def batches() -> torch.utils.data.DataLoader[Any]:
    given = torch.randn(16, 4, generator=torch.Generator().manual_seed(3))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(given), batch_size=4)


def fit(net: Net, epochs: int, folder: Path, **more: Any) -> Net:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[Progress()],
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, batches(), **more)
    trainer.save_checkpoint(folder / "last.ckpt")
    return net


def test_lightning_resumes(workdir: Path) -> None:
    assert {type(m).__name__ for m in Net().children()} == {"Sequential", "PDReLU"}
    straight = fit(Net(), 2, workdir / "straight")
    assert straight.at == [step / 8 for step in range(8)]
    fit(Net(), 1, workdir / "half")
    resumed = fit(Net(), 2, workdir / "again", ckpt_path=workdir / "half" / "last.ckpt")
    assert resumed.at == [step / 8 for step in range(4, 8)]
    read = Net.load_from_checkpoint(workdir / "straight" / "last.ckpt")
    for one in (resumed, read):
        for name, value in straight.state_dict().items():
            assert torch.equal(one.state_dict()[name], value), name


@pytest.mark.parametrize("first", ["convert", "prepare"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(first: str, precision: str, workdir: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.act = nn.Linear(4, 8), nn.Linear(8, 2), nn.ReLU()

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.two(self.act(self.one(given))))

    torch.manual_seed(0)
    plain = Block()
    given = torch.randn(64, 4)
    accelerator = accelerate.Accelerator(mixed_precision=precision, cpu=True)
    wanted = leaky_gradients(accelerator.prepare(copy.deepcopy(plain)), given)
    model = convert(copy.deepcopy(plain), LEAKY) if first == "convert" else copy.deepcopy(plain)
    model = accelerator.prepare(model)
    if first == "prepare":
        model = convert(model, LEAKY)
    found = gradients(model, given)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            one, other, rtol=0.03 if precision == "bf16" else 1e-5, atol=1e-3
        )
    accelerator.save_state(str(workdir / "state"))
    before = copy.deepcopy(model.state_dict())
    assert list(before) == list(plain.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    accelerator.load_state(str(workdir / "state"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    accelerator.save_model(model, str(workdir / "model"))
    assert type(accelerator.unwrap_model(model)).__name__ == "Block"


def test_the_trainer_of_transformers(workdir: Path) -> None:
    namespace: dict[str, Any] = {}
    exec(EXAMPLES["Transformers"][1], namespace)
    at: list[set[float]] = []

    class Noted(namespace["Progress"]):  # type: ignore[misc, valid-type]
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            at.append(progress(more["model"]))

    torch.manual_seed(0)
    model, _ = opt()
    convert(model, FADED)
    keys = list(model.state_dict())
    rows = [{"input_ids": torch.arange(5) + i, "labels": torch.arange(5) + i} for i in range(8)]
    arguments = transformers.TrainingArguments(
        str(workdir / "out"),
        per_device_train_batch_size=2,
        num_train_epochs=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[Noted()])
    trainer.train()
    assert at == [{0.0}, {0.25}, {0.5}, {0.75}]
    trainer.save_model(str(workdir / "saved"))
    saved: Any = type(model)
    read = saved.from_pretrained(workdir / "saved")
    assert list(read.state_dict()) == keys
    for name, value in read.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


ARCHITECTURES = (
    "densenet121",
    "dla34",
    "dpn48b",
    "ese_vovnet19b_dw",
    "fbnetc_100",
    "gernet_s",
    "ghostnet_050",
    "hardcorenas_a",
    "hrnet_w18_small",
    "inception_v3",
    "lcnet_035",
    "legacy_seresnet18",
    "mnasnet_small",
    "mobilenetv3_small_050",
    "resnet10t",
    "regnetx_002",
    "regnety_002",
    "repvgg_a0",
    "res2net50_14w_8s",
    "resnest14d",
    "resnet18",
    "resnet26d",
    "resnetblur50",
    "rexnet_100",
    "selecsls42",
    "semnasnet_050",
    "seresnet18",
    "skresnet18",
    "vgg11",
    "xception41",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_thirty_architectures_of_timm(name: str) -> None:
    """The output stays, and with g = 1 above zero and 0 below so does every gradient."""
    size = 96 if name == "inception_v3" else 64
    batch = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    plain = timm.create_model(name, num_classes=4).eval()
    converted = convert(copy.deepcopy(plain), library()["exp_tail"].default, example=batch)
    exact = convert(copy.deepcopy(plain), library()["relu"].default, example=batch)
    assert torch.equal(converted(batch), plain(batch))

    def slopes(model: nn.Module) -> tuple[torch.Tensor, ...]:
        loss = model(batch)[:, 0].sum()
        return torch.autograd.grad(
            loss, list(model.parameters()), allow_unused=True, materialize_grads=True
        )

    wanted = slopes(plain)
    assert all(map(torch.equal, slopes(exact), wanted))
    assert not all(map(torch.equal, slopes(converted), wanted))
